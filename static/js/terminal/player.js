"use strict";
/* Plays a recording. A change of speed or of skipping makes the player anew, at the second it had come to. */
(() => {
  const box = document.getElementById("player");
  if (!box) return;
  const speed = document.getElementById("player-speed");
  const skip = document.getElementById("player-skip");
  let player = null;

  async function make() {
    const at = player ? await player.getCurrentTime() : 0;
    player?.dispose();
    box.replaceChildren();
    const options = { speed: Number(speed.value), preload: true, fit: "width", theme: "asciinema", startAt: at };
    if (skip.checked) options.idleTimeLimit = 2;
    if (at) options.autoPlay = true;
    player = AsciinemaPlayer.create(box.dataset.cast, box, options);
    player.addEventListener("error", () => (box.textContent = box.dataset.failed));
  }

  speed.addEventListener("change", make);
  skip.addEventListener("change", make);
  make();
})();
