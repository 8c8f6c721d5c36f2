/* The Files tab of a server's page: the panel that terminals have beside them, as a page. */

import { Files } from "./terminal/files.js";

const panel = document.getElementById("files");
if (panel) {
  const { server, mayDownload, mayUpload } = panel.dataset;
  new Files(panel, { mayDownload, mayUpload }).open(server);
}
