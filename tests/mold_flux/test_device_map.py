"""A FLUX.1 model that is placed on the processor runs there, whatever device its worker has."""

from __future__ import annotations

from pathlib import Path

from mold_core import GenerateRequest, Settings, load_plugins
from mold_core.engine.worker.local import LocalWorker
from mold_core.jobs.kinds.generate import GenerateTask
from mold_core.placement.device_map import placed
from mold_core.testing import RecordedRun
from mold_core.wire import AdvancedPlacement, DevicePlacement, DeviceRef
from mold_flux.family import FluxFamily

CPU = DeviceRef(kind="cpu")
REQUEST = GenerateRequest(prompt="a tree", width=64, height=64, steps=1, guidance=1.0, seed=3)


def test_a_whole_model_runs_beside_a_device_that_is_not_even_there(tmp_path: Path) -> None:
    plugins = load_plugins(["nano", "flux"])
    settings = Settings(home=tmp_path)
    spec = plugins.models["flux-nano:bf16"]
    wanted = DevicePlacement(text_encoders=CPU, advanced=AdvancedPlacement(transformer=CPU, vae=CPU))
    elsewhere = LocalWorker("mps", settings, plugins)
    (made,) = elsewhere.run(
        GenerateTask(placed(spec, FluxFamily(), wanted, lambda: ["mps"]).spec, [REQUEST]), RecordedRun()
    )
    (usual,) = LocalWorker("cpu", settings, plugins).run(GenerateTask(spec, [REQUEST]), RecordedRun())
    assert made.images[0].tobytes() == usual.images[0].tobytes()
    assert elsewhere._residency.used_bytes == 0
    assert elsewhere._host_residency.used_bytes > 1_000_000
