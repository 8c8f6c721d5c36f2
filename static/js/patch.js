/* Makes one piece of a page equal to another with as little as possible: scroll, focus and what a reader has opened or
   selected stay as they are. What has data-own is filled by a script: left alone for as long as it is the same one. */

function patchAttributes(here, there) {
  for (const { name } of [...here.attributes]) {
    if (name === "open" && here.tagName === "DETAILS") continue;
    if (!there.hasAttribute(name)) here.removeAttribute(name);
  }
  for (const { name, value } of there.attributes) {
    if (name === "open" && here.tagName === "DETAILS") continue;
    if (here.getAttribute(name) !== value) here.setAttribute(name, value);
  }
}

export function patch(here, there) {
  if (here.nodeType !== there.nodeType || here.nodeName !== there.nodeName || here.id !== there.id) {
    here.replaceWith(document.importNode(there, true));
    return;
  }
  if (here.nodeType !== Node.ELEMENT_NODE) {
    if (here.data !== there.data) here.data = there.data;
    return;
  }
  if (here.isEqualNode(there) || here.hasAttribute("data-own")) return;
  patchAttributes(here, there);
  patchChildren(here, there);
}

export function patchChildren(here, there) {
  const present = [...here.childNodes];
  const wanted = [...there.childNodes];
  wanted.forEach((child, index) => {
    if (index < present.length) patch(present[index], child);
    else here.append(document.importNode(child, true));
  });
  present.slice(wanted.length).forEach((child) => child.remove());
}

/* Whether a reader has marked text in there, which a patch would take from under him. */
export function selecting(element) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && element.contains(selection.anchorNode);
}
