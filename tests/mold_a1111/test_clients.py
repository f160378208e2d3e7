"""The routes of the web UI, called by the package webuiapi and with the requests of other clients."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import pytest
import webuiapi
from inside_server import InsideServer, serving_inside
from PIL import Image

import mold_a1111.plugin
import mold_esrgan.plugin
import mold_flux.plugin
import mold_nano.plugin
from mold_core.media.metadata import read_metadata
from mold_core.testing import FakePlugin, FlipbookFamily, Gate, SketchFamily, flipbook_model, sketch_model
from mold_http import check_routes

KEY = "a-key"
SKETCH = SketchFamily(
    capabilities=frozenset({"text-to-image", "image-to-image", "inpaint", "negative-prompt", "lora", "scheduler"}),
    batched=False,
)
PLUGINS = (
    FakePlugin(families=[FlipbookFamily(), SKETCH], models=[flipbook_model(), sketch_model()]),
    mold_a1111.plugin,
    mold_flux.plugin,
    mold_nano.plugin,
    mold_esrgan.plugin,
)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideServer]:
    """A server with a key, whose default model makes videos."""
    home = tmp_path_factory.mktemp("a1111") / "home"
    (home / "loras").mkdir(parents=True)
    (home / "loras" / "style.safetensors").write_bytes(b"")
    with serving_inside(home, *PLUGINS, api_key=KEY, default_model="flipbook") as running:
        yield running


@pytest.fixture
def ui(inside: InsideServer) -> Iterator[webuiapi.WebUIApi]:
    api = webuiapi.WebUIApi(port=inside.port)
    api.set_auth("user", KEY)
    api.set_options({"sd_model_checkpoint": "sketch"})
    SKETCH.batches.clear()
    yield api
    api.session.close()


def ask(inside: InsideServer, method: str, path: str, body: Any = None) -> httpx2.Response:
    return httpx2.request(method, f"http://localhost:{inside.port}/sdapi/v1/{path}", json=body, auth=("user", KEY))


def picture(mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (32, 32), "white")


def png(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_server_adds_every_route() -> None:
    check_routes(mold_a1111.plugin.mold_routes())


def test_text_becomes_images(ui: webuiapi.WebUIApi) -> None:
    result = ui.txt2img(
        prompt="a house", negative_prompt="fog", seed=7, steps=3, cfg_scale=2.5, width=40, height=32, n_iter=2
    )
    assert [image.size for image in result.images] == [(40, 32)] * 2
    assert (result.info["seed"], result.info["all_seeds"], result.info["steps"]) == (7, [7, 8], 3)
    assert result.info["sd_model_name"] == "sketch:v1"
    text = result.info["infotexts"][1]
    assert text.startswith("a house\nNegative prompt: fog\nSteps: 3, Sampler: ")
    assert "Seed: 8, Size: 40x32, Model: sketch:v1" in text
    assert result.images[1].info["parameters"] == text
    assert result.parameters["prompt"] == "a house"
    requests = [request for batch in SKETCH.batches for request in batch]
    assert {(request.negative_prompt, request.guidance) for request in requests} == {("fog", 2.5)}


def test_an_image_becomes_another_within_a_mask(ui: webuiapi.WebUIApi) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    result = ui.img2img(
        images=[picture()], prompt="a boat", mask_image=mask, inpainting_mask_invert=1, denoising_strength=0.4
    )
    assert result.image.size[0] == result.image.size[1]
    ((request,),) = SKETCH.batches
    assert (request.strength, request.source_image is not None) == (0.4, True)
    assert request.mask_image is not None
    inverted = Image.open(BytesIO(request.mask_image))
    assert (inverted.getpixel((4, 4)), inverted.getpixel((28, 4))) == (0, 255)
    assert "Denoising strength: 0.4" in result.info["infotexts"][0]


def test_an_image_is_upscaled_to_the_size_asked_for(ui: webuiapi.WebUIApi) -> None:
    names = [upscaler["name"] for upscaler in ui.get_upscalers()]
    assert names[0] == "None" and "esrgan-nano-x4:fp32" in names
    assert ui.extra_single_image(picture(), upscaler_1="esrgan-nano-x4", upscaling_resize=3).image.size == (96, 96)
    fitted = ui.extra_single_image(
        picture(), upscaler_1="esrgan-nano-x4", resize_mode=1, upscaling_resize_w=50, upscaling_resize_h=40
    )
    assert fitted.image.size == (50, 40)
    assert ui.extra_single_image(picture(), upscaler_1="None").image.size == (32, 32)
    with pytest.raises(RuntimeError, match="sketch:v1 is no upscaler"):
        ui.extra_single_image(picture(), upscaler_1="sketch")


def test_an_enlargement_beyond_the_memory_is_refused_before_any_work(inside: InsideServer) -> None:
    body = {"image": png(picture()), "upscaler_1": "esrgan-nano-x4", "resize_mode": 1}
    before = len(inside.engine.recent_jobs())
    answer = ask(
        inside, "POST", "extra-single-image", {**body, "upscaling_resize_w": 16384, "upscaling_resize_h": 16384}
    )
    assert (answer.status_code, "megapixels" in answer.json()["error"]) == (422, True)
    assert len(inside.engine.recent_jobs()) == before


def test_an_unknown_upscaler_of_hires_fix_is_refused_before_any_work(ui: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="unknown model"):
        ui.txt2img(prompt="a house", width=32, height=32, enable_hr=True, hr_upscaler="nope")
    assert SKETCH.batches == []


def test_hires_fix_enlarges_and_denoises_again(ui: webuiapi.WebUIApi) -> None:
    result = ui.txt2img(prompt="a house", seed=3, width=32, height=32, enable_hr=True, hr_scale=2, steps=2)
    assert result.image.size == (64, 64)
    first, second = (batch[0] for batch in SKETCH.batches)
    assert first.source_image is None
    assert second.source_image is not None
    assert (second.width, second.seed, second.strength) == (64, 3, 0.7)


def test_loras_in_prompts_are_applied(ui: webuiapi.WebUIApi) -> None:
    assert [lora["name"] for lora in ui.get_loras()] == ["style"]
    ui.txt2img(prompt="a house <lora:style:0.8>, at night")
    ((request,),) = SKETCH.batches
    assert request.prompt == "a house, at night"
    assert request.loras is not None and request.loras[0].scale == 0.8
    with pytest.raises(RuntimeError, match="nearest: style"):
        ui.txt2img(prompt="a house <lora:styl:1>")
    with pytest.raises(RuntimeError, match=r"much.* is not a number"):
        ui.txt2img(prompt="a house <lora:style:much>")


def test_models_are_listed_and_chosen(ui: webuiapi.WebUIApi) -> None:
    assert ui.util_get_model_names() == ["flux-nano:bf16", "sketch:v1"]
    assert ui.util_get_current_model() == "sketch:v1"
    ui.set_options({"sd_model_checkpoint": "flux-nano:bf16 [abc]", "CLIP_stop_at_last_layers": 2})
    assert ui.util_get_current_model() == "flux-nano:bf16"
    result = ui.txt2img(prompt="a house", override_settings={"sd_model_checkpoint": "sketch:v1"})
    assert result.info["sd_model_name"] == "sketch:v1"
    assert ui.util_get_current_model() == "flux-nano:bf16"
    with pytest.raises(RuntimeError, match="nearest: sketch:v1"):
        ui.txt2img(prompt="a house", override_settings={"sd_model_checkpoint": "sketsh"})


def test_without_a_choice_an_image_model_is_used(tmp_path: Any) -> None:
    with serving_inside(tmp_path / "home", *PLUGINS[:2], default_model="flipbook") as server:
        answer = httpx2.post(f"http://localhost:{server.port}/sdapi/v1/txt2img", json={"prompt": "a house"})
        assert json.loads(answer.json()["info"])["sd_model_name"] == "sketch:v1"


def test_the_lists_have_what_clients_read(ui: webuiapi.WebUIApi) -> None:
    assert "Euler" in ui.util_get_sampler_names()
    assert ui.util_get_scheduler_names() == ["automatic"]
    assert ui.get_latent_upscale_modes()[0]["name"] == "Latent"
    assert ui.get_sd_vae() == []
    assert ui.get_memory()["ram"]["total"] > 0
    assert ui.get_scripts()["txt2img"] == []


def test_progress_and_interrupt(ui: webuiapi.WebUIApi, inside: InsideServer) -> None:
    assert ui.get_progress()["progress"] == 0
    ui.util_wait_for_ready()
    SKETCH.gate = gate = Gate()
    answers: list[httpx2.Response] = []
    body = {"prompt": "a house", "steps": 4}
    asking = threading.Thread(target=lambda: answers.append(ask(inside, "POST", "txt2img", body)))
    asking.start()
    try:
        gate.wait_for_arrival()
        progress = ui.get_progress()
        assert (progress["progress"], progress["state"]["job_count"]) == (0.25, 1)
        assert (progress["state"]["sampling_step"], progress["state"]["sampling_steps"]) == (1, 4)
        ui.interrupt()
        asking.join(120)
    finally:
        gate.open()
        SKETCH.gate = None
    assert (answers[0].status_code, answers[0].json()["code"]) == (409, "CANCELLED")
    assert ui.get_progress()["state"]["job_count"] == 0


def test_progress_shows_the_image(ui: webuiapi.WebUIApi, inside: InsideServer) -> None:
    found: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            image = ask(inside, "GET", "progress").json()["current_image"]
            if image:
                found.append(image)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        ui.txt2img(prompt="a red house", steps=8, override_settings={"sd_model_checkpoint": "flux-nano"})
    finally:
        done.set()
        watching.join(120)
    assert Image.open(BytesIO(base64.b64decode(found[-1]))).format == "JPEG"


def test_infotext_is_read_from_images(ui: webuiapi.WebUIApi, inside: InsideServer) -> None:
    made = ask(inside, "POST", "txt2img", {"prompt": "ein Häuschen", "seed": 5}).json()["images"][0]
    answer = ask(inside, "POST", "png-info", {"image": f"data:image/png;base64,{made}"}).json()
    assert answer["info"].startswith("ein Häuschen\nSteps: 2")
    assert (answer["parameters"]["Prompt"], answer["parameters"]["Seed"]) == ("ein Häuschen", "5")
    metadata = read_metadata(base64.b64decode(made))
    assert metadata is not None and metadata.prompt == "ein Häuschen"
    foreign = BytesIO()
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a cat\nNegative prompt: dog\nSteps: 9, Seed: 1")
    picture().save(foreign, "PNG", pnginfo=info)
    answer = ask(inside, "POST", "png-info", {"image": base64.b64encode(foreign.getvalue()).decode()}).json()
    assert answer["parameters"] == {"Prompt": "a cat", "Negative prompt": "dog", "Steps": "9", "Seed": "1"}
    assert ask(inside, "POST", "png-info", {"image": png(picture())}).json()["info"] == ""


def test_a_key_is_required(inside: InsideServer) -> None:
    url = f"http://localhost:{inside.port}/sdapi/v1/options"
    assert httpx2.get(url).status_code == 401
    assert httpx2.get(url, auth=("user", "wrong")).status_code == 401
    assert httpx2.get(url, auth=(KEY, "")).status_code == 200


def test_open_webui_makes_an_image(inside: InsideServer) -> None:
    """The requests of its engine automatic1111, in their order."""
    options = ask(inside, "GET", "options").json()
    models = ask(inside, "GET", "sd-models").json()
    assert {"title", "model_name"} <= models[0].keys()
    options["sd_model_checkpoint"] = next(model["model_name"] for model in models if "sketch" in model["title"])
    assert ask(inside, "POST", "options", options).status_code == 200
    body = {"prompt": "a house", "batch_size": 1, "width": 32, "height": 32, "steps": 2, "negative_prompt": "fog"}
    answer = ask(inside, "POST", "txt2img", body).json()
    assert Image.open(BytesIO(base64.b64decode(answer["images"][0]))).size == (32, 32)
    assert json.loads(answer["info"])["steps"] == 2


def test_silly_tavern_makes_an_image(inside: InsideServer) -> None:
    """Its request has more fields than mold knows."""
    for path in ("upscalers", "latent-upscale-modes", "sd-modules", "sd-vae", "samplers", "schedulers", "progress"):
        assert ask(inside, "GET", path).status_code == 200
    body = {
        "prompt": "a house",
        "negative_prompt": "",
        "sampler_name": "DPM++ 2M",
        "scheduler": "karras",
        "steps": 2,
        "cfg_scale": 7,
        "width": 32,
        "height": 32,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": -1,
        "clip_skip": 1,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "override_settings_restore_afterwards": True,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
    }
    assert len(ask(inside, "POST", "txt2img", body).json()["images"]) == 1


def test_large_images_are_read(ui: webuiapi.WebUIApi, inside: InsideServer) -> None:
    noise = Image.effect_noise((1500, 1500), 200).convert("RGB")
    answer = ask(inside, "POST", "img2img", {"prompt": "a", "init_images": [png(noise)], "width": 32, "height": 32})
    assert answer.status_code == 200, answer.text
