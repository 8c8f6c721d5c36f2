"use strict";
/* Dark or light as the admin is set, before anything is drawn. */
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function apply() {
    let chosen = "auto";
    try {
      chosen = JSON.parse(localStorage.getItem("adminTheme")) || "auto";
    } catch {
      chosen = "auto";
    }
    const isDark = chosen === "dark" || (chosen === "auto" && dark.matches);
    document.documentElement.classList.toggle("dark", isDark);
    document.dispatchEvent(new CustomEvent("theme"));
  }

  dark.addEventListener("change", apply);
  addEventListener("storage", apply);
  apply();
})();
