/* Copying, also where the browser offers no clipboard to scripts (plain HTTP): then the old way. */

/** Whether `text` was copied. The focus may be elsewhere afterwards. */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.style.position = "fixed";
    field.style.opacity = "0";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
