/* Where the lines come from; docs/logs.md tells the frames. */

const FIRST_LINES = 500;
const FLUSH_MS = 100;
const FLUSH_MOST_MS = 2000;
const SHARE = 5; // of the page's time, one part in five goes into showing lines
const RETRY_MS = [1000, 2000, 4000, 8000, 10000];
const FINAL_CODES = [4400, 4403, 4404];

/* One instance over one socket at a time, again and again, always from the offset it had come to. */
export class LogSource {
  constructor(path, view, tell) {
    this.path = path;
    this.view = view;
    this.tell = tell;
    this.offset = null;
    this.fails = 0;
    this.queue = [];
    this.pause = FLUSH_MS;
    this.badSince = null; // a quiet log is live all the same: what counts is when it ceased to be
  }

  open() {
    if (this.socket || this.over) return;
    clearTimeout(this.timer);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const from = this.offset === null ? `tail=${FIRST_LINES}` : `offset=${this.offset}`;
    const socket = new WebSocket(`${scheme}//${location.host}${this.path}?${from}`);
    this.socket = socket;
    this.problem = "";
    if (!this.fails) this.tell("connecting");
    socket.addEventListener("message", (event) => socket === this.socket && this.receive(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => socket === this.socket && this.closed(event.code));
  }

  close() {
    clearTimeout(this.timer);
    this.flush();
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.fails = 0;
  }

  receive(frame) {
    if (frame.type === "error") {
      this.problem = frame.message;
      this.tellBad();
      return;
    }
    this.fails = 0;
    this.problem = "";
    this.badSince = null;
    if (frame.type === "log") {
      this.queue.push(frame);
      this.flushing ??= setTimeout(() => this.flush(), this.pause);
    }
    this.tell(frame.type === "waiting" && this.offset === null && !this.queue.length ? "empty" : "live");
  }

  /* Shown in batches, and acknowledged when shown: a flood comes no faster than the page can take it. */
  flush() {
    clearTimeout(this.flushing);
    this.flushing = undefined;
    const frames = this.queue;
    this.queue = [];
    const begun = performance.now();
    let text = "";
    for (const frame of frames) {
      if (this.offset !== null && frame.offset !== this.offset) {
        if (text) this.view.add(text);
        text = "";
        if (frame.offset > this.offset) this.view.note(this.view.skipped(frame.offset - this.offset));
        else this.view.note(this.view.anew());
      }
      text += frame.data;
      this.offset = frame.next_offset;
    }
    if (text) this.view.add(text);
    this.pause = Math.min(FLUSH_MOST_MS, Math.max(FLUSH_MS, SHARE * (performance.now() - begun)));
    if (frames.length && this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ type: "ack", offset: this.offset }));
    }
  }

  tellBad() {
    this.badSince ??= new Date();
    this.tell("bad", this.problem, this.badSince);
  }

  closed(code) {
    this.flush();
    this.socket = null;
    if (FINAL_CODES.includes(code)) {
      this.over = true;
      return;
    }
    this.tellBad();
    this.timer = setTimeout(() => this.open(), RETRY_MS[Math.min(this.fails, RETRY_MS.length - 1)]);
    this.fails += 1;
  }
}
