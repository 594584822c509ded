"""The manager's status page in a real browser: what it says in each state, and that nobody but its
own script runs in it. Each state is also a screenshot, for people to look at."""

import json

import pytest

import live

HEALTH = "document.getElementById('health').textContent"
DRAWN = "Number(document.documentElement.dataset.polls || 0) >= 1"
ROWS = "[...document.querySelectorAll('#server-rows tr')]"
FINDINGS = "document.getElementById('findings').innerText"
# No part of the page is wider than the window, except what scrolls by itself.
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
WINDOWS = {
    "light": {"width": 1200, "height": 900},
    "dark": {"width": 1200, "height": 900, "dark": True},
    "phone": {"width": 390, "height": 844, "phone": True},
    "phone-dark": {"width": 390, "height": 844, "phone": True, "dark": True},
}


def visit(page, address: str):
    page.open(f"http://{address}/")
    page.wait_until(DRAWN)


def whole_page(page, path, window: dict):
    """A picture of all of it, in that window."""
    page.show(**window)
    height = page.evaluate("document.documentElement.scrollHeight")
    page.show(**{**window, "height": height})
    page.screenshot(path)
    page.show(**window)


@pytest.mark.parametrize("scene, word, said", [
    ("empty", "empty", "no data server has joined yet"),
    ("three", "healthy", ""),
    ("frozen", "degraded", "the map is frozen: 3 of 6 servers"),
    ("down", "down", "no data server is alive"),
    ("follower", "unknown", "The manager that decides is at 10.0.0.9:30001"),
])  # fmt: skip
def test_each_state_is_a_word_and_what_to_do(page, staged, pictures, scene, word, said):
    with staged(scene) as address:
        visit(page, address)
        assert page.evaluate(HEALTH) == word
        assert said in page.evaluate(FINDINGS)
        assert (page.evaluate(FINDINGS) == "") == (word == "healthy")
        assert word in page.evaluate("document.title")
        for name, window in WINDOWS.items():
            whole_page(page, pictures / f"{scene}-{name}.png", window)
            assert page.evaluate(FITS), name
    if scene == "follower":  # its 503 is an error of the network to the browser
        page.complaints[:] = [c for c in page.complaints if "503" not in c]


def test_a_hundred_servers(page, staged, pictures):
    with staged("hundred") as address:
        visit(page, address)
        assert page.evaluate(f"{ROWS}.length") == 100
        # What needs a person comes first.
        states = page.evaluate(f"{ROWS}.slice(0, 4).map((r) => r.children[1].textContent)")
        assert states == ["dead", "suspect", "draining", "alive"]
        said = page.evaluate(FINDINGS)
        for part in ("server-17 is dead", "server-42 is silent", "server-55 is being drained",
                     "312 shards", "several versions: 0.1.0 (98), 0.2.0 (1)"):  # fmt: skip
            assert part in said
        for name, window in WINDOWS.items():
            whole_page(page, pictures / f"hundred-{name}.png", window)
            assert page.evaluate(FITS), name


def test_ten_minutes_of_history_are_lines(page, staged):
    with staged("three") as address:
        visit(page, address)
        for chart, lines in (("hit-chart", 1), ("bytes-chart", 2), ("keys-chart", 3)):
            paths = page.evaluate(
                f"[...document.querySelectorAll('#{chart} path')].map((p) => p.getAttribute('d'))"
            )
            assert len(paths) == lines
            for path in paths:
                points = path.replace("M", "L").split("L")[1:]
                assert len(points) > 500, chart
                assert all(0 <= float(y) <= 100 for _, y in map(str.split, points)), chart
            label = page.evaluate(f"document.getElementById('{chart}').getAttribute('aria-label')")
            assert "now" in label and "peak" in label


def test_it_lives(page, staged):
    with staged("three") as address:
        visit(page, address)
        first = page.evaluate("state.samples.at(-1).number")
        page.wait_until(f"state.samples.at(-1).number >= {first} + 2")
        numbers = page.evaluate("state.samples.map((s) => s.number)")
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(numbers) <= 600
        assert page.evaluate("document.getElementById('updated').textContent") == "live"


def test_the_manager_goes_away(page, staged):
    with staged("three", stays=True) as address:
        visit(page, address)
    page.wait_until(f"{HEALTH} === 'unknown'")
    assert "does not answer" in page.evaluate(FINDINGS)
    assert page.evaluate(f"{ROWS}.length") == 3  # what was known last stays
    page.open("about:blank")
    page.complaints.clear()  # of refused connections


def test_names_are_text(page, staged, pictures):
    with staged("hostile") as address:
        visit(page, address)
        assert page.evaluate("document.title") == "SiMM: healthy"
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert "onerror" in page.evaluate("document.getElementById('server-rows').textContent")
        whole_page(page, pictures / "hostile-light.png", WINDOWS["light"])
        whole_page(page, pictures / "hostile-phone.png", WINDOWS["phone"])
        assert page.evaluate(FITS)


def test_the_policy_stops_what_is_not_ours(page, staged):
    with staged("three") as address:
        visit(page, address)
        page.evaluate("""(() => { const s = document.createElement('script');
            s.textContent = "document.title = 'owned'"; document.body.append(s); })()""")
        page.evaluate("""(() => { const b = document.createElement('button');
            b.setAttribute('onclick', "document.title = 'owned'");
            document.body.append(b); b.click(); })()""")
        assert page.evaluate("document.title") == "SiMM: healthy"
        refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'asked', (e) => e.name)")
        assert refused == "TypeError"
        assert len([c for c in page.complaints if "Content Security Policy" in c]) >= 3
        page.complaints.clear()


def test_by_keyboard(page, staged):
    with staged("hundred") as address:
        visit(page, address)
        page.evaluate("document.querySelector('#server-heads button').focus()")
        page.press("Enter", 13)
        assert page.evaluate("document.querySelector('th[aria-sort]').textContent") == "Name"
        assert page.evaluate(f"{ROWS}[0].children[0].textContent") == "server-0"
        page.press("Enter", 13)
        assert page.evaluate(f"{ROWS}[0].children[0].textContent") == "server-99"
        page.evaluate("document.getElementById('filter').focus()")
        page.call("Input.insertText", text="dead")
        assert page.evaluate(f"{ROWS}.length") == 1
        # A poll redraws the table: focus and what was typed stay.
        polls = page.evaluate("document.documentElement.dataset.polls")
        page.wait_until(f"document.documentElement.dataset.polls !== '{polls}'")
        assert page.evaluate("document.activeElement.id") == "filter"
        assert page.evaluate(f"{ROWS}.length") == 1


CONTRAST = """(() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return {rgb: [r, g, b], a}; };
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => v / 255)
    .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c.rgb; }
    return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.hidden, .skip, script')) continue;
    const pair = [light(parse(getComputedStyle(e).color).rgb), light(behind(e))].sort();
    const ratio = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${e.textContent} ${ratio.toFixed(2)}`);
  }
  return bad; })()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_and_controls_have_names(page, staged, dark):
    with staged("hundred") as address:
        page.show(1200, 900, dark=dark)
        visit(page, address)
        assert page.evaluate(CONTRAST) == []
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        for node in tree:
            role = node.get("role", {}).get("value")
            if role in ("button", "checkbox", "searchbox", "link", "image", "table"):
                assert node.get("name", {}).get("value"), json.dumps(node)


def test_a_real_cluster(page, cluster, pictures):
    cluster.ctl("put", "page", "-", stdin="x" * 1000)
    visit(page, cluster.http["manager"])
    page.wait_until(f"{HEALTH} === 'healthy'")
    assert page.evaluate(f"{ROWS}.length") == 3
    page.wait_until("state.status.stats.entries === 1")
    assert "joined" in page.evaluate("document.getElementById('events').textContent")
    cluster.bench("mixed", "--seconds", "3", "--value-size", "64KiB")
    page.wait_until("state.samples.some((s) => s.puts > 0)")
    cluster.kill("server-1")
    page.wait_until(f"{HEALTH} === 'degraded'")
    page.wait_until("document.getElementById('findings').innerText.includes('server-1 is dead')")
    assert "died" in page.evaluate("document.getElementById('events').textContent")
    whole_page(page, pictures / "real-light.png", WINDOWS["light"])
    cluster.start_server("server-1")
    page.wait_until(f"{HEALTH} === 'healthy'")
    live.wait_for("server-1 is ready", lambda: live.fetch(cluster.http["server-1"], "/readyz"))
