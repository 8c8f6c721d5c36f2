// The page's one connection to /ws/chat. It comes back by itself; what was asked meanwhile is sent then.

const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 10000;

export class ChatSocket {
  /** `onFrame(frame)` for each, `onState(open)` when the connection comes or goes. */
  constructor(onFrame, onState) {
    this.onFrame = onFrame;
    this.onState = onState;
    this.waiting = [];
    this.retry = RETRY_FIRST_MS;
    this.refused = false;
    this.connect();
    addEventListener("pagehide", () => this.socket.close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.connect(); });
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  say(frame) {
    if (this.isOpen) this.socket.send(JSON.stringify(frame));
    else this.waiting.push(frame);
  }

  connect() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/chat`);
    this.socket = socket;
    socket.addEventListener("open", () => {
      this.retry = RETRY_FIRST_MS;
      this.onState(true);
      for (const frame of this.waiting.splice(0)) this.say(frame);
    });
    socket.addEventListener("message", (event) => {
      const frame = JSON.parse(event.data);
      this.onFrame(frame);
      if (frame.type === "chunk") this.say({ type: "ack", n: frame.n });
    });
    socket.addEventListener("close", (event) => {
      if (this.socket !== socket) return;
      this.onState(false);
      if (event.code === 4403) return;
      setTimeout(() => { if (this.socket === socket) this.connect(); }, this.retry);
      this.retry = Math.min(this.retry * 2, RETRY_MOST_MS);
    });
  }
}
