/* The timeline as it grows, over one socket that comes again by sequence; docs/events.md tells the frames. */

const RETRY_MS = [500, 1000, 2000, 5000, 10000];
const ACK_FRAMES = 4; // half of what the site sends without an answer
const FINAL_CODES = [4400, 4403];

/* Calls `onNews(events)` for what happens from now on; `events` is null when more was missed than is told one by one. */
export function followEvents(onNews) {
  let seq = null;
  let fails = 0;
  let unanswered = 0;

  function open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws/events${seq === null ? "" : `?after=${seq}`}`);
    unanswered = 0;
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.type === "error") return;
      fails = 0;
      seq = frame.seq;
      if (frame.type === "reset") onNews(null);
      if (frame.type !== "events") return;
      unanswered = (unanswered + 1) % ACK_FRAMES;
      if (!unanswered) socket.send(JSON.stringify({ type: "ack", seq }));
      onNews(frame.events);
    };
    socket.onclose = ({ code }) => {
      if (FINAL_CODES.includes(code)) return;
      setTimeout(open, RETRY_MS[Math.min(fails, RETRY_MS.length - 1)]);
      fails += 1;
    };
  }

  open();
}
