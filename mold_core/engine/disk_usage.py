"""The contents of this machine's disk: model details and removal, LoRAs, disk usage, stored chains."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from mold_core.catalog import LoraFolder, ModelFile, ModelSpec
from mold_core.catalog.adopted import read_adopted
from mold_core.catalog.details import (
    ChainDetails,
    DiskUsage,
    FileDetails,
    LoraFile,
    MemoryDetails,
    ModelDetails,
    ModelUsage,
    PartDetails,
    Removal,
)
from mold_core.catalog.remove import plan_removal, remove
from mold_core.chains import ClipRules, SavedChain, plan
from mold_core.jobs.kinds.chain import chain_store
from mold_core.placement.device import DeviceInfo
from mold_core.placement.memory import MemoryReport, memory_report
from mold_core.requests.models import Models
from mold_core.wire import ChainRequest

__all__ = ["DiskInventory"]


@attrs.frozen
class DiskInventory:
    """Reports disk usage and removes models; `mold_core.client.disk_usage.RemoteDiskInventory` has the same methods."""

    models: Models
    devices: Callable[[], Mapping[str, DeviceInfo]] = dict  # as workers reported them

    def model(self, name: str) -> ModelDetails:
        """Return the details of a model. Raises UnknownModelError, and CheckpointError for a damaged file."""
        spec = self.models.resolve(name)
        missing = self.models.store.missing(spec)
        report = self._memory(spec)
        return ModelDetails(
            name=spec.name,
            family=spec.family,
            description=spec.description,
            licence=spec.licence,
            defaults=spec.defaults,
            part_of=spec.part_of,
            expander=spec.expander,
            embedded=spec.embedded,
            downloaded=not missing,
            abilities=self.models.abilities(spec),
            parameters=self.models.parameters(spec),
            files=tuple(self._file(spec, file, here=file not in missing) for file in spec.files),
            memory=None if report is None else memory_details(report),
        )

    def loras(self) -> tuple[LoraFile, ...]:
        """Return the LoRAs that have names, in the order of the names."""
        settings = self.models.settings
        folder = LoraFolder(settings.loras_path, adopted=read_adopted(settings.home).loras)
        return tuple(
            LoraFile(name=name, path=str(file), size_bytes=file.stat().st_size) for name, file in folder.names()
        )

    def plan_removal(self, name: str) -> Removal:
        """Return what `remove` would delete. Raises the same errors."""
        return plan_removal(self.models.resolve(name), self._catalog, self.models.store)

    def remove(self, name: str) -> Removal:
        """Delete a model's files, except those that other models need; see `mold_core.catalog.remove`."""
        return remove(self.models.resolve(name), self._catalog, self.models.store)

    def usage(self) -> DiskUsage:
        """Return the disk usage in bytes."""
        settings, store = self.models.settings, self.models.store
        output = settings.output_path
        output_bytes, output_files = _usage(output) if output else (0, 0)
        others = {f"{name}_bytes": _usage(settings.home / name)[0] for name in _OTHERS}
        sizes = [
            ModelUsage(name=spec.name, bytes=store.files_of(spec).size_bytes())
            for spec in self._catalog.values()
            if spec.files and not spec.embedded and store.has(spec)
        ]
        return DiskUsage(
            models_dir=str(settings.models_path),
            models_dir_bytes=_usage(settings.models_path)[0],
            output_dir=str(output) if output else None,
            output_bytes=output_bytes,
            output_images=output_files,
            models=tuple(sorted(sizes, key=lambda model: -model.bytes)),
            **others,
        )

    def chains(self) -> tuple[ChainDetails, ...]:
        """Return the stored chains, the latest first."""
        return tuple(map(self._chain_details, chain_store(self.models).list()))

    def chain(self, id: str) -> ChainRequest:
        """Return the request of a chain; sent again, it resumes after the last whole clip. Raises ValidationError."""
        return chain_store(self.models).read(id)

    def _chain_details(self, saved: SavedChain) -> ChainDetails:
        spec = self._catalog.get(saved.request.model or "")
        renderer = self.models.plugins.chain_renderers.get(spec.family) if spec else None
        stages = plan(saved.request, ClipRules.of(renderer)).stages
        return ChainDetails(
            id=saved.id,
            model=saved.request.model or "",
            prompt=stages[0].prompt,
            stages=len(stages),
            saved_at=int(saved.saved_at),
        )

    @property
    def _catalog(self) -> Mapping[str, ModelSpec]:
        return self.models.plugins.models

    def _file(self, spec: ModelSpec, file: ModelFile, *, here: bool) -> FileDetails:
        path = self.models.store.path_of(spec, file)
        return FileDetails(
            component=file.component,
            path=str(path),
            here=here,
            size_bytes=file.size_bytes or (path.stat().st_size if path.is_file() else 0),
            repo=file.repo,
            filename=file.filename,
            sha256=file.sha256,
            gated=file.gated,
        )

    def _memory(self, spec: ModelSpec) -> MemoryReport | None:
        family = self.models.plugins.families.get(spec.family)
        if family is None or spec.part_of is not None:
            return None
        models = self.models
        return memory_report(family, spec, models.store, models.settings, models.plugins, self.devices())


# Folders in MOLD_HOME other than those of models and results.
_OTHERS = ("cache", "logs", "jobs", "chains", "loras")


def memory_details(report: MemoryReport) -> MemoryDetails:
    """Return a memory report in its wire form."""
    return MemoryDetails(
        parts=tuple(
            PartDetails(
                name=component.name,
                file=component.files[0].name if component.files else None,
                device=component.device,
                size_bytes=component.size_bytes,
                working_bytes=component.working_bytes,
            )
            for component in report.parts
        ),
        room=dict(report.room),
        needs={strategy: dict(needs) for strategy, needs in report.needs.items()},
        fits={strategy: report.fits(strategy) for strategy in report.needs},
        chosen=report.chosen,
        problem=report.problem,
    )


def _usage(folder: Path) -> tuple[int, int]:
    """Return the total bytes and the number of files in a folder and its subfolders, without following links."""
    size = count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
            count += 1
    return size, count
