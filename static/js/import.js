"use strict";
/* Another meaning of a column, or another file, is looked at right away. */
document.getElementById("import-form")?.addEventListener("change", ({ target, currentTarget }) => {
  if (target.matches("[data-look], input[type=file]")) currentTarget.requestSubmit(currentTarget.elements.look);
});
