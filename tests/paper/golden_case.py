"""Run one golden training case with our code and measure its errors; driven by the case files
alone.

`python tests/paper/golden_case.py [FOLDER]` prints the largest error of each quantity over all
cases.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from ibot.config.schema import (
    AugmentConfig,
    Config,
    Duration,
    HeadConfig,
    MaskConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from ibot.data.masks import masks_from_map
from ibot.engine.optimizer import build_optimizer
from ibot.engine.schedule import Schedules
from ibot.engine.update import Update
from ibot.method.model import StudentTeacher
from ibot.types import Batch

TOLERANCE = defaultdict(
    lambda: 1e-9,
    student_final=1e-8,
    teacher_final=1e-8,
    moments=1e-8,
    schedules=1e-12,
    teacher_start=0.0,
)
IGNORED = {"name", "note", "full", "world_size", "family", "steps", "sets", "masks"}


class Case:
    """The files of one case: settings, arrays, named sets of tensors."""

    def __init__(self, path: Path) -> None:
        self.json = json.loads(path.read_text())
        self.arrays = np.load(path.with_suffix(".npz"), allow_pickle=False)
        self.name = self.json["name"]

    def tensor_set(self, key: str) -> dict[str, tuple[np.ndarray, list[int], str]]:
        """Name -> (stored numbers, shape, mode) of one flat set."""
        spec = self.json["sets"][key]
        names, shapes = self._members(spec)
        flat, result, start = self.arrays[key], {}, 0
        for i, name in enumerate(names):
            shape = shapes[name]
            size = int(np.prod(shape, dtype=int))
            stored = 16 if spec["mode"] == "digest" and size > 32 else size
            values = flat[start : start + stored].astype(np.float64)
            if spec["mode"] == "int8":
                values = values / 2.0 ** spec["bits"][i]
            digest = spec["mode"] == "digest" and size > 32
            result[name] = (
                values if digest else values.reshape(shape),
                shape,
                "digest" if digest else "full",
            )
            start += stored
        assert start == len(flat), f"{key}: {len(flat)} numbers stored, {start} read"
        return result

    def _members(self, spec: dict) -> tuple[list[str], dict[str, list[int]]]:
        tensors = spec["tensors"]
        while isinstance(tensors, str) and tensors.startswith("="):
            tensors = self.json["sets"][tensors[1:]]["tensors"]
        if spec["table"] is None:
            return [name for name, _ in tensors], dict(tensors)
        table = self.json[spec["table"]]
        table = self.json[table[1:]] if isinstance(table, str) else table
        if tensors == "all":
            return list(table), table
        return (self.json["parameters"] if tensors == "parameters" else tensors), table

    def config(self) -> Config:
        """Our settings for this case; fails on anything that it does not know."""
        left = copy.deepcopy({k: v for k, v in self.json.items() if isinstance(v, dict)})
        net, head, crops, loss, optim, masks = (
            left.pop(k) for k in ("backbone", "head", "crops", "loss", "optim", "masks")
        )
        masks_kind, ratio, spread = (
            masks.pop("masks"),
            masks.pop("pred_ratio"),
            masks.pop("pred_ratio_var"),
        )
        assert masks_kind in ("block", "rand", "empty", "mixed", "mixed1"), masks_kind
        assert net.pop("qkv_bias") is True
        size = net.pop("img_size")
        common = dict(
            width=net.pop("embed_dim"),
            patch=net.pop("patch_size"),
            mlp_ratio=net.pop("mlp_ratio"),
            drop_path=net.pop("drop_path_rate"),
            pos_size=(size, size),
            norm_eps=net.pop("norm_eps"),
        )
        if self.json["family"] == "swin":
            net.pop("non_square_extension")
            depths, heads = tuple(net.pop("depths")), tuple(net.pop("num_heads"))
            assert net.pop("num_features") == common["width"] * 2 ** (len(depths) - 1)
            model = ModelConfig(
                kind="swin",
                depths=depths,
                stage_heads=heads,
                window=net.pop("window_size"),
                **common,
            )
        else:
            assert self.json["family"] == "vit", self.json["family"]
            model = ModelConfig(
                kind="vit",
                depth=net.pop("depth"),
                heads=net.pop("num_heads"),
                layer_scale=net.pop("init_values"),
                mean_pooling=net.pop("use_mean_pooling"),
                **common,
            )
        augment = AugmentConfig(
            num_global=crops.pop("global_crops_number"),
            num_local=crops.pop("local_crops_number"),
            global_size=tuple(crops.pop("global_size_hw")),
            local_size=tuple(crops.pop("local_size_hw") or (8, 8)),
        )
        head_config = HeadConfig(
            out_dim=head.pop("out_dim"),
            patch_out_dim=head.pop("patch_out_dim"),
            layers=head.pop("nlayers"),
            hidden_dim=head.pop("hidden_dim"),
            bottleneck_dim=head.pop("bottleneck_dim"),
            norm=head.pop("norm") or "none",
            norm_shared=True,
            act=head.pop("act"),
            norm_last_layer=head.pop("norm_last_layer"),
            shared=head.pop("shared_head"),
            shared_teacher=head.pop("shared_head_teacher"),
        )
        warmup = loss.pop("warmup_teacher_temp_epochs")
        start = Duration(loss.pop("pred_start_epoch"), "epochs")
        mask = MaskConfig(ratio=((ratio, spread),), start=start)
        method = MethodConfig(
            student_temp=loss.pop("student_temp"),
            center_momentum=loss.pop("center_momentum"),
            center_momentum_patch=loss.pop("center_momentum2"),
            cls_weight=loss.pop("lambda1"),
            patch_weight=loss.pop("lambda2"),
            teacher_temp_start=loss.pop("warmup_teacher_temp"),
            teacher_temp=loss.pop("teacher_temp"),
            patch_temp_start=loss.pop("warmup_teacher_patch_temp"),
            patch_temp=loss.pop("teacher_patch_temp"),
            temp_warmup=Duration(warmup, "epochs"),
            momentum=optim.pop("momentum_teacher"),
        )
        assert optim.pop("sgd_momentum") == 0.9 and optim.pop("lars") == {
            "momentum": 0.9,
            "eta": 0.001,
        }
        adamw = optim.pop("adamw")
        assert adamw.pop("eps") == 1e-8
        self.steps_per_epoch, self.epochs = optim.pop("steps_per_epoch"), optim.pop("epochs")
        optim.pop("first_iteration")
        batch = crops.pop("batch")
        optim_config = OptimConfig(
            name=optim.pop("optimizer"),
            lr=optim.pop("lr"),
            min_lr=optim.pop("min_lr"),
            warmup=Duration(optim.pop("warmup_epochs"), "epochs"),
            weight_decay=optim.pop("weight_decay"),
            weight_decay_end=optim.pop("weight_decay_end"),
            betas=tuple(adamw.pop("betas")),
            clip=optim.pop("clip_grad"),
            freeze_last_layer=Duration(optim.pop("freeze_last_layer"), "epochs"),
        )
        assert optim.pop("lr_peak") == optim_config.lr * batch / 256
        unknown = {
            k: v
            for k, v in dict(
                net=net, crops=crops, head=head, loss=loss, optim=optim, masks=masks, adamw=adamw
            ).items()
            if v
        }
        known = {
            "student_tensors",
            "teacher_tensors",
            "student_alias",
            "teacher_alias",
            "teacher_from_student",
            "optimizer_step_of",
            "sets",
        }
        assert not unknown and set(left) <= known, (
            f"settings unknown to this test: {unknown}, {set(left) - known}"
        )
        train = TrainConfig(length=Duration(self.epochs, "epochs"), batch=batch)
        return Config(
            augment=augment,
            mask=mask,
            model=model,
            head=head_config,
            method=method,
            optim=optim_config,
            train=train,
        )

    def batch(self, step: int, config: Config) -> Batch:
        """Crops (view-major, float64) and masks of one step."""
        crops_of = self.json["steps"][step]["batch"]
        num_global, num_local = config.augment.num_global, config.augment.num_local
        views = [
            torch.from_numpy(self.arrays[f"crops/{crops_of}/{v}"]).double() / 8
            for v in range(num_global + num_local)
        ]
        maps = torch.stack(
            [
                torch.from_numpy(self.arrays[f"masks/{step}/{v}"]).flatten(1)
                for v in range(num_global)
            ]
        )
        local_views = torch.stack(views[num_global:]) if num_local else None
        masks = masks_from_map(maps, dtype=torch.float64)
        return Batch(torch.stack(views[:num_global]), local_views, masks, np.arange(len(views[0])))

    def schedules(self, config: Config) -> Schedules:
        per_epoch = self.steps_per_epoch
        return Schedules(
            config=config,
            steps_per_epoch=per_epoch,
            total_steps=self.epochs * per_epoch,
            warmup_steps=int(config.optim.warmup.value) * per_epoch,
            temp_warmup_steps=int(config.method.temp_warmup.value) * per_epoch,
            freeze_steps=int(config.optim.freeze_last_layer.value) * per_epoch,
            mask_start=round(config.mask.start.value) * self.steps_per_epoch,
        )


def digest(a: np.ndarray) -> np.ndarray:
    """The 16 numbers by which the cases store a large tensor."""
    a = a.ravel()
    i = np.arange(a.size)
    head = [
        a.sum(),
        np.sqrt((a * a).sum()),
        (a * np.cos(i)).sum(),
        (a * np.cos(np.sqrt(2) * i + 1)).sum(),
    ]
    return np.concatenate([head, a[(np.arange(12) * (a.size - 1)) // 11]])


def error(
    got: torch.Tensor | np.ndarray | float,
    want: np.ndarray,
    mode: str = "full",
    floor: float = 1e-6,
) -> float:
    """Largest difference over the tensor's scale, as the golden README defines it."""
    got = (
        got.detach().numpy() if isinstance(got, torch.Tensor) else np.asarray(got, dtype=np.float64)
    )
    scale = want[1] if mode == "digest" else (np.abs(want).max() if want.size else 0.0)
    got = digest(got) if mode == "digest" else got
    assert got.shape == want.shape, f"{got.shape} against {want.shape}"
    return float(np.abs(got - want).max() / max(scale, floor)) if want.size else 0.0


class Run:
    """Our model on one case; `errors` maps each quantity to its largest error."""

    def __init__(self, path: Path) -> None:
        self.case = Case(path)
        self.config = self.case.config()
        self.errors: dict[str, float] = defaultdict(float)
        self.model = StudentTeacher(self.config).double()
        self.load_start()
        optimizer = build_optimizer(self.model.student, self.config.optim)
        self.update = Update(
            model=self.model, student=self.model.student, optimizer=optimizer, config=self.config
        )
        trained = [name for name, p in self.model.student.named_parameters() if p.requires_grad]
        assert trained == self.case.json["parameters"]
        decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
        named = dict(self.model.student.named_parameters())
        assert [n for n in trained if id(named[n]) in decayed] == self.case.json["regularized"]

    def see(self, quantity: str, value: float) -> None:
        self.errors[quantity] = (
            max(self.errors[quantity], value) if value == value else float("nan")
        )

    def load_start(self) -> None:
        self._load("student", self.case.tensor_set("student0"))
        if self.case.json["teacher_init"] == "own":
            self._load("teacher", self.case.tensor_set("teacher0"))
        else:
            assert self.case.json["teacher_init"] == "published"
            self.model.start_teacher()
            source, table = self.model.student.state_dict(), self.case.json["teacher_from_student"]
            for name, value in self.model.teacher.state_dict().items():
                if name in self.case.json["teacher_alias"]:
                    continue
                self.see(
                    "teacher_start", float((value - source[table.get(name, name)]).abs().max())
                )
        for key, center in (
            ("center_start", self.model.cls_center),
            ("center2_start", self.model.patch_center),
        ):
            if key in self.case.arrays:
                center.value.copy_(torch.from_numpy(self.case.arrays[key]).flatten())

    def _load(self, network: str, stored: dict) -> None:
        own = getattr(self.model, network).state_dict()
        own = {
            name: value
            for name, value in own.items()
            if not name.endswith("relative_position_index")
        }  # computed
        alias = self.case.json[f"{network}_alias"]
        assert {n for n in own if n not in alias} == set(stored), set(own) ^ set(stored)
        with torch.no_grad():
            for name, (values, _, _) in stored.items():
                own[name].copy_(torch.from_numpy(np.asarray(values)))

    def compare_set(
        self, quantity: str, key: str, got: dict[str, torch.Tensor], floor: float = 1e-6
    ) -> None:
        for name, (want, _, mode) in self.case.tensor_set(key).items():
            self.see(quantity, error(got[name], want, mode, floor))

    @torch.no_grad()
    def compare_outputs(self) -> None:
        """Tokens and scores at step 0 through the plain path (every token through every layer)."""
        model, batch = copy.deepcopy(self.model), self.case.batch(0, self.config)
        images, hidden = batch.global_views.flatten(0, 1), batch.masks.map.flatten(0, 1)
        got_tokens, got_patch = {}, {}
        passes = [
            ("student", model.student, images, hidden),
            ("teacher", model.teacher, images, None),
        ]
        if batch.local_views is not None:
            passes.append(("student_local", model.student, batch.local_views.flatten(0, 1), None))
        for name, network, views, mask in passes:
            output = network.backbone(views, mask)
            tokens = torch.cat([output.cls[:, None], output.patches], dim=1)
            z = network.head.project(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
            cls, patch = network.head.logits(z[:, 0], z[:, 1:].flatten(0, 1))
            got_tokens[f"{name}_tokens"] = tokens
            got_patch[f"{name}_patch"] = patch = patch.unflatten(0, (len(views), -1))
            self.see("scores", error(cls, self.case.arrays[f"scores/{name}_cls"]))
            if f"scores/{name}_patch_first" in self.case.arrays:
                self.see(
                    "scores", error(patch[0, :3], self.case.arrays[f"scores/{name}_patch_first"])
                )
        self.compare_set("tokens", "tokens", got_tokens)
        self.compare_set("scores", "scores_patch", got_patch)

    def run(self) -> dict[str, float]:
        self.compare_outputs()
        schedules = self.case.schedules(self.config)
        for number, step in enumerate(self.case.json["steps"]):
            values = schedules.at(step["iteration"])
            for name in ("lr", "wd", "momentum", "teacher_temp", "teacher_patch_temp"):
                ours = {"wd": "weight_decay", "teacher_patch_temp": "patch_temp"}.get(name, name)
                self.see(
                    "schedules",
                    abs(getattr(values, ours) - step[name]) / max(abs(step[name]), 1e-12),
                )
            self.one_step(number, step, values)
        self.compare_set("student_final", "student_final", self.model.student.state_dict())
        self.compare_set("teacher_final", "teacher_final", self.model.teacher.state_dict())
        self.compare_moments()
        return dict(self.errors)

    def one_step(self, number: int, step: dict, values) -> None:
        seen = {}
        named = {n: p for n, p in self.model.student.named_parameters() if p.requires_grad}
        hooks = [
            p.register_hook(lambda g, n=n: seen.__setitem__(n, g.clone())) for n, p in named.items()
        ]
        out = self.update.step([self.case.batch(number, self.config)], values)
        for hook in hooks:
            hook.remove()
        method = self.config.method
        got = {
            "loss": out.loss.item(),
            "loss_cls": out.metrics["cls_loss"].item() * method.cls_weight,
            "loss_patch": out.metrics["patch_loss"].item() * method.patch_weight,
        }
        for name, value in got.items():
            self.see("losses", abs(value - step[name]) / max(abs(step[name]), 1e-3))
        if step["acc"] is not None:
            self.see(
                "acc",
                abs(out.metrics["agreement"].item() - step["acc"])
                if step["acc"]
                else out.metrics["agreement"].item(),
            )
        for key, center in (
            ("centers", self.model.cls_center),
            ("centers2", self.model.patch_center),
        ):
            self.see("centers", error(center.value, self.case.arrays[key][number].flatten()))
        if number == 0:
            self.compare_set("gradients", "grad_before", seen, floor=1e-5)
        norms = self.case.arrays["grad_norms_before"][number]
        after = self.case.arrays["grad_norms_after"][number]
        removed = [name for name, p in named.items() if p.grad is None]
        assert removed == step["grad_none"], f"gradients removed: {removed}"
        for i, (name, p) in enumerate(named.items()):
            self.see(
                "gradient norms", abs(seen[name].norm().item() - norms[i]) / max(norms[i], 1e-5)
            )
            if p.grad is None:
                assert np.isnan(after[i])
            else:
                self.see(
                    "gradient norms", abs(p.grad.norm().item() - after[i]) / max(after[i], 1e-5)
                )
        if "grad_after" in self.case.json["sets"] and number == 0:
            self.compare_set(
                "gradients",
                "grad_after",
                {n: p.grad for n, p in named.items() if p.grad is not None},
                1e-5,
            )

    def compare_moments(self) -> None:
        named = {n: p for n, p in self.model.student.named_parameters()}
        state = self.update.optimizer.state
        for key in self.case.json["sets"]:
            if key.startswith("opt/"):
                got = {
                    n: state[p][key[4:]] for n, p in named.items() if key[4:] in state.get(p, {})
                }
                assert set(got) == set(self.case.tensor_set(key))
                self.compare_set("moments", key, got)
        if self.config.optim.name == "adamw":
            largest = max(self.case.json["optimizer_steps"])
            for n, p in named.items():
                if "step" in state.get(p, {}):
                    assert int(state[p]["step"]) == self.case.json["optimizer_step_of"].get(
                        n, largest
                    ), n


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "golden"
    worst: dict[str, tuple[float, str]] = {}
    paths = [p for p in sorted(folder.glob("*.json")) if "steps" in json.loads(p.read_text())]
    for path in paths:
        errors = Run(path).run()
        for quantity, value in errors.items():
            worst[quantity] = max(worst.get(quantity, (0.0, "-")), (value, path.stem))
    swin = sum(path.stem.startswith("swin") for path in paths)
    print(f"{len(paths) - swin} ViT cases, {swin} Swin cases")
    for quantity, (value, name) in worst.items():
        print(f"{quantity:16} {value:.1e}  {name}")


if __name__ == "__main__":
    main()
