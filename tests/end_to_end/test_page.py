"""The page in a browser, against the real server and the models that ship with mold."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, serving
from PIL import Image
from proxy import proxying

from mold_core.chains import read_script
from mold_http.routes.web import FILES

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

# A step takes a tenth of a second on an idle machine; this allows for busy ones.
PATIENCE_MS = 120_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Images that the gallery finds when the server starts.
OLD = 60
# The last one is animated and has no metadata.
GIF = f"mold-old-bf16-17000000000{9 + OLD}.gif"
PROMPT = "a red house under a yellow moon"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("page") / "home"
    (home / "output").mkdir(parents=True)
    for number in range(10, 10 + OLD):
        colour = (number * 4, 90, 90)
        Image.new("RGB", (32, 20), colour).save(home / "output" / f"mold-old-bf16-17000000000{number}.png")
    (home / "output" / f"mold-old-bf16-17000000000{9 + OLD}.png").unlink()
    turns = [Image.new("RGB", (32, 20), colour) for colour in ("red", "blue")]
    turns[0].save(home / "output" / GIF, save_all=True, append_images=turns[1:], duration=200)
    with serving(home, MOLD_EXECUTOR="process", MOLD_TRUSTED_PROXIES="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        executable = found or (own if Path(own).exists() else None)
        if executable is None:
            pytest.skip(f"no browser: none of {', '.join(names)} is installed, nor Playwright's own Chromium")
        running = driver.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


class Visit:
    """A browser window that records its errors and its requests to other hosts."""

    def __init__(self, browser: Any, port: int, below: str = "", **options: Any) -> None:
        self.url = f"http://127.0.0.1:{port}{below}"
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:" + self.url)):
            self.elsewhere.append(request.url)

    def go(self, place: str = "create") -> Any:
        """Open one view of the page and return it."""
        self.page.goto(f"{self.url}/#/{place}")
        self.page.locator("#model").wait_for(state="attached")
        return self.page


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    """A window that must have no console errors and no requests to other hosts."""
    expect.set_options(timeout=PATIENCE_MS)
    with visiting(browser, server.port) as one:
        yield one


@contextmanager
def visiting(browser: Any, port: int, below: str = "") -> Iterator[Visit]:
    one = Visit(browser, port, below)
    yield one
    one.context.close()
    assert one.complaints == []
    assert one.elsewhere == []


def make(page: Any, prompt: str = PROMPT) -> Any:
    """Generate an image and return its element."""
    page.locator("#prompt").fill(prompt)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#stage[data-state=done] .words")).to_have_text(prompt)
    return page.locator("#mat > img")


def natural_size(image: Any) -> list[int]:
    return image.evaluate(
        "async (image) => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }"
    )


# --- generating ------------------------------------------------------------------------------------------------------


def test_a_prompt_becomes_an_image_with_previews(visit: Visit, server: Server) -> None:
    page = visit.go()
    page.evaluate(
        """() => { window.seen = [];
        new MutationObserver(() => {
            const image = document.querySelector('#mat > img');
            window.seen.push([document.querySelector('#step')?.textContent, image?.src.slice(0, 15)].join(' '));
        }).observe(document.querySelector('#stage'), { subtree: true, childList: true, characterData: true }); }"""
    )
    page.get_by_label("Seed").fill("7")
    image = make(page)
    assert natural_size(image) == [128, 128]
    seen = page.evaluate("window.seen")
    assert any("Step 4 of 4" in words for words in seen)
    assert any("data:image/jpeg" in words for words in seen)  # a preview
    expect(page.locator("#caption")).to_contain_text(PROMPT)
    expect(page.locator("#live")).to_have_text("Done")
    newest = server.ask("GET", "/api/gallery?limit=1").json()[0]["metadata"]
    assert (newest["prompt"], newest["seed"]) == (PROMPT, 7)


def test_the_form_shows_the_parameters_of_the_family(visit: Visit, server: Server) -> None:
    page = visit.go()
    page.get_by_role("button", name="128 by 96").click()
    for label, value in (("Images", "2"), ("Steps", "3")):
        page.get_by_label(label, exact=False).first.fill(value)
    page.locator("#set-output_format").select_option("webp")
    assert natural_size(make(page, "three green trees")) == [128, 96]
    expect(page.locator("#others button")).to_have_count(2)
    page.get_by_label("Image 2 of 2").click()
    expect(page.get_by_label("Image 2 of 2")).to_have_attribute("aria-pressed", "true")
    newest = server.ask("GET", "/api/gallery?limit=2").json()
    assert [(one["metadata"]["steps"], one["format"]) for one in newest] == [(3, "webp")] * 2
    assert page.locator("#set-negative_prompt").count() == 0  # FLUX has none


def test_escape_cancels(visit: Visit, server: Server) -> None:
    page = visit.go()
    page.get_by_label("Images").fill("8")
    page.get_by_label("Steps").fill("100")
    page.locator("#prompt").fill(PROMPT)
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#step")).to_contain_text("of 100")
    page.keyboard.press("Escape")
    expect(page.locator("#mat")).to_contain_text("Cancelled.")
    assert server.ask("GET", "/api/jobs").json()[0]["state"] == "cancelled"


def test_a_job_is_found_again_after_a_reload(visit: Visit) -> None:
    page = visit.go()
    page.get_by_label("Steps").fill("60")
    page.locator("#prompt").fill("a white cat")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#step")).to_contain_text("of 60")
    page.reload()
    page.locator("#stage[data-state=done]").wait_for()
    expect(page.locator("#caption")).to_contain_text("a white cat")


def test_an_image_is_regenerated_only_where_the_mask_is_painted(visit: Visit, server: Server) -> None:
    page = visit.go()
    make(page, "a blue square on a white background")
    page.get_by_role("button", name="Use as input").click()
    canvas = page.locator(".source canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.get_by_label("Brush").fill("40")
    page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] * 0.9, steps=4)
    page.mouse.up()
    page.locator("#set-strength").fill("1")
    make(page, "a red circle on a black background")
    after, before = (
        Image.open(io.BytesIO(server.ask("GET", f"/api/gallery/image/{entry['filename']}").body)).convert("RGB")
        for entry in server.ask("GET", "/api/gallery?limit=2").json()
    )

    def change(left: int, right: int) -> float:
        pairs = [(before.getpixel((x, y)), after.getpixel((x, y))) for x in range(left, right) for y in range(20, 108)]
        return sum(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True)) / len(pairs) / 3

    assert change(0, 50) < 12 < 40 < change(105, 125)


def test_a_file_can_be_dropped_and_removed(visit: Visit) -> None:
    page = visit.go()
    data = io.BytesIO()
    Image.new("RGB", (96, 64), "teal").save(data, "PNG")
    page.evaluate(
        """(bytes) => { const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], "teal.png", { type: "image/png" }));
        const section = document.querySelector("#create");
        for (const type of ["dragenter", "dragover", "drop"])
            section.dispatchEvent(new DragEvent(type, { dataTransfer: held, bubbles: true })); }""",
        list(data.getvalue()),
    )
    expect(page.get_by_alt_text("Input image")).to_be_visible()
    expect(page.locator("#set-strength")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_alt_text("Input image")).to_have_count(0)
    expect(page.locator("#set-strength")).to_be_hidden()


def test_a_prompt_is_enhanced_and_one_version_chosen(visit: Visit, server: Server) -> None:
    page = visit.go()
    page.locator("#prompt").fill("a house")
    page.get_by_role("button", name="Enhance prompt").click()
    choice = page.locator(".choices button").first
    text = choice.inner_text()
    choice.click()
    expect(page.locator("#prompt")).to_have_value(text)
    make(page, text)
    metadata = server.ask("GET", "/api/gallery?limit=1").json()[0]["metadata"]
    assert (metadata["prompt"], metadata["original_prompt"]) == (text, "a house")


# --- the gallery ---------------------------------------------------------------------------------------------------


def test_the_gallery_finds_shows_marks_and_deletes(visit: Visit, server: Server) -> None:
    page = visit.go()
    make(page, "a purple castle in the snow")
    page.get_by_role("link", name="Gallery").click()
    page.get_by_label("Search").fill("purp castle")
    tiles = page.locator(".hang button")
    expect(tiles).to_have_count(1)
    assert natural_size(tiles.locator("img")) == [128, 128]
    tiles.click()
    page.get_by_role("button", name="☆ Favourite").click()
    expect(page.get_by_role("button", name="★ Favourite")).to_be_visible()
    assert server.ask("GET", "/api/gallery?q=purple+castle&limit=1").json()[0]["favourite"] is True
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.locator("#prompt")).to_have_value("a purple castle in the snow")
    assert page.get_by_label("Seed").input_value() != ""
    page.get_by_role("link", name="Gallery").click()
    tiles.first.click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Confirm delete").click()
    expect(tiles).to_have_count(0)
    assert server.ask("GET", "/api/gallery?q=purple+castle").json() == []


def test_a_long_gallery_loads_more_on_scrolling(visit: Visit) -> None:
    page = visit.go("gallery")
    with page.expect_response(lambda answer: "q=old" in answer.url and "cursor" not in answer.url) as first:
        page.get_by_label("Search").fill("old")
    assert len(first.value.json()) == 40
    page.locator(".hang > li").last.scroll_into_view_if_needed()
    expect(page.locator(".hang button")).to_have_count(OLD)


def test_a_gif_without_metadata_counts_as_a_video_and_is_no_input_image(visit: Visit) -> None:
    page = visit.go("gallery")
    page.get_by_label("Search").fill("old")
    tile = page.locator(f"[id='tile-{GIF}']")
    expect(tile).to_contain_text("video")
    tile.click()
    expect(page.get_by_role("button", name="Save")).to_be_visible()
    assert page.get_by_role("button", name="Use as input").count() == 0
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Use as input")).to_be_visible()


def test_an_image_is_upscaled_and_compared(visit: Visit) -> None:
    page = visit.go()
    make(page)
    page.get_by_role("button", name="Details").click()
    page.get_by_role("button", name="Upscale").click()
    assert natural_size(page.get_by_alt_text("After")) == [512, 512]
    slider = page.get_by_label("Position of the divider")
    slider.fill("20")
    assert page.locator(".compare").evaluate("(box) => box.style.getPropertyValue('--at')") == "20%"
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_a_video_is_generated_and_a_chain_uses_the_defaults_of_its_model(visit: Visit) -> None:
    page = visit.go()
    page.locator("#model").select_option("ltx2-nano:bf16")
    expect(page.get_by_label("Sound")).to_be_checked()
    expect(page.locator("#set-fps")).to_have_value("16")
    page.locator("#prompt").fill("a red balloon rising")
    page.keyboard.press("Control+Enter")
    video = page.locator("#mat > video")
    expect(video).to_be_visible()
    page.wait_for_function("() => document.querySelector('#mat > video')?.readyState >= 2")
    assert video.evaluate("(video) => [video.videoWidth, video.videoHeight, video.error]") == [64, 64, None]
    visit.go("video")
    expect(page.locator("#video [role=status]")).to_contain_text("1 clip, 49 frames, about 3.1 s")


# --- chains --------------------------------------------------------------------------------------------------------


CHAINS_PLUGIN = """
import time

from mold_core import Parameter, hookimpl
from mold_core.testing import FlipbookFamily, FlipbookRenderer, flipbook_model

PARAMETERS = (
    Parameter(name="weight", doc="Weight of the ball.", type=int, default=3, minimum=1, maximum=9, group="Ball"),
    Parameter(name="ground", doc="What the ball bounces on.", type=str, default="grass", choices=("grass", "ice")),
)


class Slow:
    def pass_through(self):
        time.sleep(0.15)


@hookimpl
def mold_families():
    return [FlipbookFamily(gate=Slow(), parameters=PARAMETERS)]


@hookimpl
def mold_models():
    return [flipbook_model()]


@hookimpl
def mold_chain_renderers():
    return [FlipbookRenderer()]
"""

SCRIPT = """schema = "mold.chain.v1"

[chain]
model = "flipbook:v1"  # a flying ball
seed = 7

[[stage]]
prompt = "a red ball"
frames = 17

[[stage]]
prompt = 'a "blue" ball'
frames = 17
transition = "cut"

[[stage]]
prompt = '''
a green
ball'''
frames = 1_7
transition = "fade"
fade_frames = 4
"""


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that generates chains of a flying ball."""
    folder = tmp_path_factory.mktemp("chains")
    about = folder / "mold_flipbook_chains-1.0.dist-info"
    about.mkdir()
    (folder / "chains_plugin.py").write_text(CHAINS_PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mold-flipbook-chains\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mold]\nchains = chains_plugin\n")
    with serving(folder / "home", MOLD_PLUGINS="http,chains", PYTHONPATH=str(folder)) as running:
        yield running


@pytest.fixture
def cinema(browser: Any, chains: Server) -> Iterator[Visit]:
    expect.set_options(timeout=PATIENCE_MS)
    one = Visit(browser, chains.port, accept_downloads=True)
    yield one
    one.context.close()
    assert one.complaints == []
    assert one.elsewhere == []


def with_script(cinema: Visit) -> Any:
    page = cinema.go("video")
    page.locator(".card").first.wait_for()
    script = {"name": "video.toml", "mimeType": "application/toml", "buffer": SCRIPT.encode()}
    page.get_by_label("Script to open").set_input_files(script)
    expect(page.locator(".card")).to_have_count(3)
    return page


def test_a_script_opens_as_cards_that_can_be_moved_and_saved(cinema: Visit, tmp_path: Path) -> None:
    page = with_script(cinema)
    expect(page.locator("#video [role=status]")).to_contain_text("3 clips, 47 frames")
    page.get_by_label("Move clip 3 earlier").click()
    page.get_by_role("button", name="Add clip").click()
    page.locator(".card textarea").last.fill("a black ball, “at night” \\o/")
    page.locator(".card").last.get_by_label("Frames", exact=True).fill("25")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save script").click()
    download.value.save_as(tmp_path / "video.toml")
    saved = read_script(tmp_path / "video.toml")
    assert (saved.model, saved.seed, saved.motion_tail_frames) == ("flipbook:v1", 7, 4)
    assert [(stage.prompt, stage.frames, stage.transition, stage.fade_frames) for stage in saved.stages] == [
        ("a red ball", 17, "smooth", None),
        ("a green\nball", 17, "fade", 4),
        ('a "blue" ball', 17, "cut", None),
        ("a black ball, “at night” \\o/", 25, "smooth", None),
    ]


def test_a_stopped_video_resumes_and_plays(cinema: Visit, chains: Server) -> None:
    page = with_script(cinema)
    page.locator("#video").get_by_role("button", name="Generate").click()
    expect(page.locator(".card .state").first).to_contain_text("frames done")
    page.locator("#video").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Resume").click()
    video = page.locator("#video video")
    video.wait_for()
    expect(page.locator(".card[data-state=done]")).to_have_count(3)
    page.wait_for_timeout(100)
    video.evaluate("(video) => video.readyState >= 2 || new Promise((done) => { video.oncanplay = done; })")
    assert video.evaluate("(video) => [video.videoWidth, video.videoHeight, video.error]") == [64, 48, None]
    assert [job["state"] for job in chains.ask("GET", "/api/jobs").json()] == ["done", "cancelled"]
    page.get_by_role("link", name="Gallery").click()
    page.locator(".hang button").first.click()
    played = page.locator(".detail .view video")
    played.wait_for()
    played.evaluate("(video) => video.readyState >= 2 || new Promise((done) => { video.oncanplay = done; })")


def test_options_of_a_family_are_set_saved_opened_and_sent(cinema: Visit, chains: Server, tmp_path: Path) -> None:
    page = with_script(cinema)
    page.locator("#set-chain-weight").fill("7")
    page.locator("#set-chain-ground").select_option("ice")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save script").click()
    download.value.save_as(tmp_path / "video.toml")
    assert read_script(tmp_path / "video.toml").options == {"weight": 7, "ground": "ice"}

    tables = SCRIPT.replace("[[stage]]", '[chain.options]\nground = "ice"\nweight = 8\n\n[[stage]]', 1).encode()
    for script, weight in (((tmp_path / "video.toml").read_bytes(), "7"), (tables, "8")):
        file = {"name": "video.toml", "mimeType": "application/toml", "buffer": script}
        page.get_by_label("Script to open").set_input_files(file)
        expect(page.locator("#set-chain-weight")).to_have_value(weight)
        expect(page.locator("#set-chain-ground")).to_have_value("ice")

    with page.expect_request("**/api/jobs") as sent:
        page.locator("#video").get_by_role("button", name="Generate").click()
    assert sent.value.post_data_json["request"]["options"] == {"weight": 8, "ground": "ice"}
    page.locator("#video").get_by_role("button", name="Cancel").click()
    expect(page.locator("#video").get_by_role("button", name="Resume")).to_be_enabled()


def test_an_option_that_the_family_does_not_have_is_refused(cinema: Visit) -> None:
    page = with_script(cinema)
    wrong = SCRIPT.replace("seed = 7", "options = { waves = 3 }").encode()
    page.get_by_label("Script to open").set_input_files(
        {"name": "video.toml", "mimeType": "application/toml", "buffer": wrong}
    )
    expect(page.get_by_role("alert")).to_contain_text("flipbook:v1 has no option waves")


def test_a_script_that_cannot_be_read_names_its_line(cinema: Visit) -> None:
    page = cinema.go("video")
    script = {"name": "video.toml", "mimeType": "application/toml", "buffer": b"schema = 'mold.chain.v1'\n[chain\n"}
    page.get_by_label("Script to open").set_input_files(script)
    expect(page.get_by_role("alert")).to_contain_text("line 2")


# --- models and server ---------------------------------------------------------------------------------------------


def test_a_model_is_loaded_and_unloaded(visit: Visit, server: Server) -> None:
    page = visit.go("models")
    for verb, then in (("Load", True), ("Unload", False)):
        if (server.ask("GET", "/api/status").json()["models_loaded"] != []) is then:
            server.ask(
                "DELETE" if then else "POST", f"/api/models/{'unload' if then else 'load'}", {"model": "flux-nano"}
            )
            page.reload()
        page.get_by_label("Search models").fill("flux-nano:bf16")
        page.get_by_role("button", name=f"{verb} flux-nano:bf16", exact=True).click()
        page.locator(".tag", has_text="in memory").wait_for(state="visible" if then else "hidden")
        assert ("flux-nano:bf16" in server.ask("GET", "/api/status").json()["models_loaded"]) is then


def test_models_say_whether_they_fit(visit: Visit) -> None:
    page = visit.go("models")
    page.get_by_label("Search models").fill("flux-")
    row = page.locator(".rows li", has_text="flux-nano:bf16")
    expect(row).to_contain_text("fits into memory", timeout=PATIENCE_MS)
    far = page.locator(".fit[data-model='flux-dev:bf16']")
    far.scroll_into_view_if_needed()
    expect(far).to_have_text(re.compile("fit"), timeout=PATIENCE_MS)


def test_the_server_view_shows_jobs_and_pauses_the_queue(visit: Visit, server: Server) -> None:
    page = visit.go("server")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    job = server.ask("POST", "/api/jobs", {"kind": "generate", "request": {"prompt": "waits"}}).json()["id"]
    page.get_by_label(f"Cancel generate {job}").click()
    expect(page.locator("#server .rows li").first).to_contain_text("cancelled")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


# --- the frame -----------------------------------------------------------------------------------------------------


def test_a_server_with_keys_is_opened_by_one(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_API_KEY="schlüssel", MOLD_EXECUTOR="process") as locked:
        window = Visit(browser, locked.port)
        page = window.page
        page.goto(window.url)
        page.get_by_role("textbox", name="API key").fill("wrong")
        page.get_by_role("button", name="Unlock").click()
        page.get_by_label("Invalid key").fill("schlüssel")
        page.get_by_role("button", name="Unlock").click()
        page.locator("#model").wait_for()
        assert natural_size(make(page)) == [128, 128]
        page.get_by_role("button", name="Details").click()
        assert natural_size(page.locator(".detail .view img")) == [128, 128]
        window.context.close()
        assert [words for words in window.complaints if "401" not in words] == []
        assert window.elsewhere == []


@pytest.mark.parametrize("width", [360, 820, 1440])
@pytest.mark.parametrize("place", ["create", "gallery", "video", "models", "server"])
def test_nothing_is_wider_than_the_window(visit: Visit, width: int, place: str) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    page = visit.go(place)
    page.locator(f"#{place}").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_axe_finds_no_accessibility_violations(visit: Visit) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python carries axe-core")
    script = (Path(package.__file__).parent / "axe.min.js").read_text("utf-8")
    visit.page.add_init_script(script)
    page = visit.go()
    make(page)
    page.get_by_role("button", name="Use as input").click()
    page.locator(".source canvas").wait_for()
    for place, shown in (("create", "#mat"), ("gallery", ".hang img[src]"), ("video", ".card"), ("models", ".rows li")):
        page.evaluate("(place) => { location.hash = `#/${place}`; }", place)
        page.locator(f"#{place} {shown}").first.wait_for()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            assert violations(page) == [], (place, scheme)


def violations(page: Any) -> list[str]:
    return page.evaluate(
        """async () => {
        await Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})));
        const { violations } = await axe.run(document, { resultTypes: ["violations"] });
        return violations.map((one) => `${one.id}: ${one.nodes[0].html}`); }"""
    )


@pytest.mark.parametrize("below", ["/mold", "/tools/image-gen"])
def test_the_page_works_below_a_path(browser: Any, server: Server, below: str) -> None:
    with proxying(server.port, below) as port, visiting(browser, port, below) as visit:
        page = visit.go()
        assert natural_size(make(page)) == [128, 128]
        page.get_by_role("link", name="Gallery").click()
        thumbnail = page.locator("#gallery img").first
        expect(thumbnail).to_be_visible()
        assert natural_size(thumbnail)[0] > 0
        for place, words in (("models", "flux-nano"), ("video", "Add clip"), ("server", "Queue")):
            page.goto(f"{visit.url}/#/{place}")
            expect(page.locator(f"#{place}")).to_contain_text(words)
        page.get_by_role("link", name="The HTTP API").click()
        expect(page.locator("body")).to_contain_text("/api/generate/chain/stream")


def test_an_event_source_sees_the_end_once_and_stays_closed(visit: Visit, server: Server) -> None:
    request = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64}
    job = server.ask("POST", "/api/jobs", {"kind": "generate", "request": request}).json()["id"]
    page = visit.go()
    ends = page.evaluate(
        """(path) => new Promise((resolve) => {
        let ends = 0;
        const source = new EventSource(path);
        source.addEventListener('complete', () => { ends += 1; });
        source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(ends); };
        })""",
        f"api/jobs/{job}/events?image_data=none",
    )
    assert ends == 1


def test_the_files_are_small_and_guarded(server: Server) -> None:
    answers = [server.ask("GET", "/"), *(server.ask("GET", f"/web/{name}") for name in FILES)]
    assert sum(len(answer.body) for answer in answers) < 150_000
    for answer in answers:
        assert answer.status == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[0].headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:")
    assert {answer.type for answer in answers} == {"text/html", "text/css", "text/javascript", "image/svg+xml"}
    again = server.ask("GET", "/", If_None_Match=answers[0].headers["etag"])
    assert (again.status, again.body) == (304, b"")
    folder = Path(__file__).parents[2] / "mold_http" / "web"
    assert {path.name for path in folder.iterdir()} == {*FILES, "index.html"}


@pytest.mark.parametrize("path", ["/web/../page.py", "/web/index.html", "/web/%2e%2e/app.py", "/web/", "/web/x.js"])
def test_no_other_file_is_served(server: Server, path: str) -> None:
    assert server.ask("GET", path).status == 404
