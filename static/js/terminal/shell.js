/* One terminal: xterm.js over one socket at a time, again and again, always from the byte it had come to.
   docs/terminal-protocol.md tells the frames. */

import { ask } from "./words.js";

const RETRY_MS = [250, 500, 1000, 1000, 1000, 2000, 2000, 2000, 5000]; // give or take a quarter: not all pages at once
const FINAL_CODES = [1000, 4400, 4403, 4404, 4409, 4502];
const ACK_BYTES = 32 * 1024;
const ACK_MS = 200;
const PIECE_CHARS = 4096; // a paste goes in pieces: one huge write can hang a remote line editor
const PIECE_MS = 10;

const DARK = { background: "#0b0f14", foreground: "#e5e7eb", cursor: "#e5e7eb", selectionBackground: "#3b82f680" };
const LIGHT = {
  background: "#ffffff", foreground: "#1f2937", cursor: "#1f2937", cursorAccent: "#ffffff", selectionBackground: "#3b82f655",
  black: "#1f2937", red: "#b91c1c", green: "#15803d", yellow: "#a16207", blue: "#1d4ed8", magenta: "#a21caf", cyan: "#0e7490", white: "#6b7280",
  brightBlack: "#4b5563", brightRed: "#dc2626", brightGreen: "#16a34a", brightYellow: "#ca8a04", brightBlue: "#2563eb", brightMagenta: "#c026d3", brightCyan: "#0891b2", brightWhite: "#374151",
};

export const theme = () => (document.documentElement.classList.contains("dark") ? DARK : LIGHT);

/* `about` is {server, serverName, service, session, observe}; `changed(shell)` is called when what the page tells differs. */
export class Shell {
  constructor(about, pane, fontSize, changed) {
    this.about = about;
    this.pane = pane;
    this.changed = changed;
    this.state = "connecting";
    this.offset = null;
    this.fails = 0;
    this.observers = [];
    this.unacked = 0;
    this.pieces = [];
    this.encoder = new TextEncoder();
    const options = { fontSize, theme: theme(), scrollback: 10000, allowProposedApi: true, cursorBlink: true, fontFamily: 'ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace' };
    this.term = new Terminal({ ...options, disableStdin: Boolean(about.observe) });
    this.fit = new FitAddon.FitAddon();
    this.finder = new SearchAddon.SearchAddon();
    this.term.loadAddon(this.fit);
    this.term.loadAddon(this.finder);
    this.term.loadAddon(new WebLinksAddon.WebLinksAddon((event, uri) => window.open(uri, "_blank", "noopener,noreferrer")));
    this.term.open(pane);
    this.term.onData((text) => this.type(text));
    this.term.onBinary((text) => this.send(Uint8Array.from(text, (char) => char.charCodeAt(0))));
    this.term.onResize(() => this.control({ type: "resize", cols: this.term.cols, rows: this.term.rows }));
    this.open();
  }

  /* The socket */

  open() {
    clearTimeout(this.timer);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws/servers/${this.about.server}/terminal`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.tell(this.fails ? "reconnecting" : "connecting");
    socket.addEventListener("open", () => this.begin());
    socket.addEventListener("message", (event) => {
      if (socket !== this.socket) return;
      if (typeof event.data === "string") this.take(JSON.parse(event.data));
      else this.show(event.data);
    });
    socket.addEventListener("close", (event) => socket === this.socket && this.closed(event.code));
  }

  begin() {
    if (this.about.observe) {
      this.control({ type: "observe", session: this.about.observe });
      return;
    }
    const frame = { type: "connect", cols: this.term.cols, rows: this.term.rows };
    if (this.about.session) {
      frame.session = this.about.session;
      if (this.offset !== null) frame.offset = this.offset;
    } else if (this.about.service) {
      frame.service = Number(this.about.service);
    }
    this.control(frame);
  }

  take(frame) {
    if (frame.type === "connected" || frame.type === "observing") {
      if (this.offset !== null && frame.offset !== this.offset) this.term.reset();
      this.fails = 0;
      this.offset = frame.offset;
      this.unacked = 0;
      this.problem = null;
      this.recorded = frame.recorded;
      this.shared = frame.shared;
      this.owner = frame.user;
      if (frame.type === "connected") this.about.session = frame.session;
      else this.term.resize(frame.cols, frame.rows);
      this.tell("connected");
    } else if (frame.type === "error") {
      this.problem = frame;
      this.changed(this);
    } else if (frame.type === "exit") {
      this.exit = frame;
    } else if (frame.type === "taken") {
      this.problem = { ...frame, code: "taken" };
    } else if (frame.type === "observers") {
      this.observers = [...new Set(frame.names)]; // one may watch in two windows
      this.changed(this);
    } else if (frame.type === "idle") {
      this.idleUntil = Date.now() + frame.seconds * 1000;
      this.changed(this);
    } else if (frame.type === "resized") {
      this.term.resize(frame.cols, frame.rows);
    } else if (frame.type === "skipped") {
      this.offset += frame.bytes;
      this.term.reset();
      this.skipped = frame.bytes;
      this.changed(this);
    }
  }

  /* Acknowledged once xterm has drawn it: a flood comes no faster than this page can take it. */
  show(data) {
    this.offset += data.byteLength;
    this.term.write(new Uint8Array(data), () => this.drawn(data.byteLength));
  }

  drawn(count) {
    this.unacked += count;
    if (this.unacked >= ACK_BYTES) this.acknowledge();
    else this.acking ??= setTimeout(() => this.acknowledge(), ACK_MS);
  }

  acknowledge() {
    clearTimeout(this.acking);
    this.acking = undefined;
    if (this.unacked) this.control({ type: "ack", bytes: this.unacked });
    this.unacked = 0;
  }

  closed(code) {
    this.socket = null;
    this.idleUntil = 0;
    this.lost = this.pieces.length > 0;
    this.pieces = [];
    if (FINAL_CODES.includes(code)) {
      this.tell(this.exit ? "exited" : "refused");
      return;
    }
    this.tell("reconnecting");
    const wait = RETRY_MS[Math.min(this.fails, RETRY_MS.length - 1)];
    this.timer = setTimeout(() => this.open(), wait * (0.75 + Math.random() / 2));
    this.fails += 1;
  }

  /* The network is back: not in some seconds, now. */
  hurry() {
    if (this.state === "reconnecting" && !this.socket) this.open();
  }

  control(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  send(bytes) {
    if (this.idleUntil || this.lost) {
      this.idleUntil = 0;
      this.lost = false;
      this.changed(this);
    }
    if (this.socket?.readyState === WebSocket.OPEN && !this.about.observe) this.socket.send(bytes);
  }

  /* Typing */

  type(text) {
    if (this.withCtrl && text.length === 1) {
      const code = text.toUpperCase().charCodeAt(0);
      if (code >= 64 && code < 96) text = String.fromCharCode(code - 64);
      this.withCtrl(false);
    }
    if (text.length <= PIECE_CHARS && !this.pieces.length) {
      this.send(this.encoder.encode(text));
      return;
    }
    const chars = Array.from(text); // whole characters: half a surrogate pair is none
    for (let at = 0; at < chars.length; at += PIECE_CHARS) this.pieces.push(chars.slice(at, at + PIECE_CHARS).join(""));
    this.pasting ??= setTimeout(() => this.sendPiece(), 0);
  }

  sendPiece() {
    const piece = this.pieces.shift();
    this.pasting = undefined;
    if (piece === undefined) return;
    this.send(this.encoder.encode(piece));
    if (this.pieces.length) this.pasting = setTimeout(() => this.sendPiece(), PIECE_MS);
  }

  /* What the page asks */

  again() {
    this.about.session = null;
    this.offset = null;
    this.exit = this.problem = null;
    this.fails = 0;
    this.term.reset();
    this.open();
  }

  /* The same session, here: taken over elsewhere, or a key that is confirmed now. */
  retry() {
    this.exit = this.problem = null;
    this.fails = 0;
    this.open();
  }

  /* Throws where it cannot be asked for; over in some seconds when there is no socket to say it on. */
  async end() {
    if (this.socket?.readyState === WebSocket.OPEN) this.control({ type: "disconnect" });
    else if (this.about.session) await ask("DELETE", `/api/terminals/${this.about.session}`);
  }

  close() {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.term.dispose();
  }

  tell(state) {
    this.state = state;
    this.changed(this);
  }

  fitted() {
    if (this.about.observe || !this.pane.offsetWidth) return;
    this.fit.fit();
  }
}
