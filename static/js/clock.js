/* Moments as the reader's account has them: in its time zone, as all that the server writes, not in the browser's. */

const language = document.documentElement.lang || undefined;
const zone = () => document.querySelector("[data-zone]")?.dataset.zone || undefined;

export function momentText(at, form) {
  return new Intl.DateTimeFormat(language, { hourCycle: "h23", timeZone: zone(), ...form }).format(at);
}

export const clockText = (at) => momentText(at, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const dayText = (at) => momentText(at, { dateStyle: "short", timeStyle: "short" });
