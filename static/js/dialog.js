"use strict";
/* Asks before something is done. A form or link with data-asks, a list's action and a form's Delete first fetch the
   question, which the server words (infini/confirmation.py); where there is none, or no answer, they go on as without
   scripts. What takes its time after a post shows a bar meanwhile. */
(() => {
  const ASKING = "form[data-asks], #changelist-form";
  const LEADING = 'a[data-asks], #submit-row a[href*="/delete/"]';

  async function question(url, options) {
    try {
      const answer = await fetch(url, {
        ...options,
        headers: { "X-Dialog": "1" },
        redirect: "manual",
        signal: AbortSignal.timeout(10000),
      });
      const html = answer.status === 200 ? await answer.text() : "";
      return html.includes('id="confirm-title"') ? html : null; // a whole page is no question
    } catch {
      return null;
    }
  }

  function show(html, opener) {
    const dialog = document.createElement("dialog");
    dialog.className = "dialog";
    dialog.setAttribute("aria-labelledby", "confirm-title");
    dialog.setAttribute("aria-describedby", "confirm-effect");
    dialog.append(document.createRange().createContextualFragment(html));
    dialog.addEventListener("close", () => {
      dialog.remove();
      focusOn(opener);
    });
    document.body.append(dialog);
    judge(dialog.querySelector("[data-word]"));
    dialog.showModal();
  }

  // A page that is live may have put another button in the place of the one that was pressed.
  function focusOn(opener) {
    const action = opener.form?.getAttribute("action");
    const again = opener.isConnected || !action ? opener : document.querySelector(`form[action="${action}"] button`);
    again?.focus();
  }

  function judge(field) {
    field?.setCustomValidity(field.value.trim() === field.dataset.word ? "" : field.dataset.wrong);
  }

  document.addEventListener("input", (event) => {
    if (event.target.matches?.("[data-word]")) judge(event.target);
  });

  let passing = null; // the form whose question is settled
  let asking = false;

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (event.defaultPrevented || !form.matches(ASKING) || passing === form) return;
    event.preventDefault();
    if (asking) return;
    asking = true;
    const { submitter } = event;
    const opener = submitter || document.activeElement;
    const url = submitter?.getAttribute("formaction") || form.getAttribute("action") || location.href;
    const html = await question(url, { method: "POST", body: new FormData(form, submitter) });
    asking = false;
    if (html) return show(html, opener);
    passing = form;
    form.requestSubmit(submitter);
    passing = null;
  });

  document.addEventListener("click", async (event) => {
    const link = event.target.closest(LEADING);
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const html = await question(link.href, {});
    if (html) show(html, link);
    else location.assign(link.href);
  });

  let waiting = 0;
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const bar = document.createElement("progress"); // without a value: how long it takes nobody knows
      bar.className = "busy-bar";
      bar.setAttribute("aria-label", document.title);
      document.body.append(bar);
    }, 300);
  });
  addEventListener("pageshow", () => {
    clearTimeout(waiting);
    for (const bar of document.querySelectorAll(".busy-bar")) bar.remove();
  });

  document.addEventListener("click", (event) => {
    const closer = event.target.closest("[data-close]");
    if (closer) closer.closest("dialog").close();
    else if (event.target instanceof HTMLDialogElement) event.target.close();
  });
})();
