"""
A TensorRT engine of an export, built and checked on the vehicle that is to run it.

    python -m saliency_i2ploc_ros.export.tensorrt EXPORT [--branch image] [--max-batch 8]

The network is strongly typed: TensorRT keeps each tensor in the type that the ONNX gives it, and
the ONNX gives norms, softmax, sums and the normalisation float32 (`graphs.in_half_precision`).
After building, the engine answers the samples of the export, and is written only if it agrees with
the model. It needs TensorRT 10 or later with its Python package, and a PyTorch with CUDA.

Written after NVIDIA's documentation of TensorRT 10 and 11. It has not been run on a GPU yet: where
it was made there is no TensorRT. What stands before the first call of it is tested.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
import sys
from typing import Any

import torch

from ..errors import InputError
from ..storage import atomic_file, sha256_file, write_json
from .parity import check_parity, Floats, Outputs, Run
from .runtime import checked_file, export_folder, read_export, read_samples

OLDEST = 10  # in which strongly typed networks are no preview any more
BRANCHES = ('image', 'cloud')


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog='python -m saliency_i2ploc_ros.export.tensorrt',
        description='Build a TensorRT engine of an export, on the machine that is to run it.')
    found.add_argument('export', type=Path, help='folder of `i2ploc export --to onnx`')
    found.add_argument('--branch', choices=BRANCHES, default='image')
    found.add_argument('--out', type=Path, help='default: <branch>.engine in the export')
    found.add_argument('--max-batch', type=_positive, default=8, help='largest batch (default: 8)')
    found.add_argument('--workspace-mib', type=_positive, default=1024,
                       help='memory that building may use (default: 1024)')
    found.add_argument('--timing-cache', type=Path,
                       help='file of timings, which makes building again fast; default: '
                       'timing.cache in the export')
    return found


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not 1 or more')
    return value


def build(
    export: Path, branch: str, out: Path, max_batch: int, workspace_mib: int, timing_cache: Path,
) -> dict[str, Any]:
    """
    Build, check and write the engine of a branch; return what `<out>.json` says of it.

    A missing TensorRT or GPU, an export that was altered, and an engine that disagrees with the
    model are InputErrors; then no engine is written.
    """
    folder = export_folder(export)
    _, identity, manifest = read_export(folder, export)
    onnx = checked_file(folder, manifest, f'{branch}.onnx')
    samples = read_samples(folder, manifest, branch)
    trt = _tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    plan, timings = _plan(trt, logger, onnx, samples.inputs, max_batch, workspace_mib,
                          timing_cache.read_bytes() if timing_cache.is_file() else b'')
    with atomic_file(timing_cache) as temporary:
        temporary.write_bytes(timings)
    run = run_engine(trt, logger, plan, tuple(manifest['inputs'][branch]),
                     tuple(manifest['outputs']))
    batches = [size for size in (1, 2, 4) if size <= max_batch]
    fitting = samples.first(max_batch)
    parity = check_parity(run, fitting, manifest['precision'], f'the engine of {onnx}', batches)
    with atomic_file(out) as temporary:
        temporary.write_bytes(plan)
    made = {'encoder_hash': identity, 'onnx_sha256': sha256_file(onnx),
            'sha256': sha256_file(out), 'precision': manifest['precision'],
            'max_batch': max_batch, 'tensorrt': trt.__version__,
            'gpu': torch.cuda.get_device_name(), 'parity': parity}
    write_json(out.with_name(out.name + '.json'), made)
    return made


def _tensorrt() -> Any:
    """Return the library; where it, its version or the GPU is missing: InputError."""
    if find_spec('tensorrt') is None:
        raise InputError('TensorRT is not installed for this Python: on a Jetson it comes with '
                         'JetPack, elsewhere pip install tensorrt')
    import tensorrt
    if int(tensorrt.__version__.partition('.')[0]) < OLDEST:
        raise InputError(f'TensorRT {tensorrt.__version__} is too old: install {OLDEST} or later')
    if not torch.cuda.is_available():
        raise InputError('PyTorch finds no CUDA device: an engine is built and checked on the '
                         'GPU that is to run it')
    return tensorrt


def _plan(
    trt: Any, logger: Any, onnx: Path, inputs: tuple[Floats, ...], max_batch: int,
    workspace_mib: int, timings: bytes,
) -> tuple[bytes, bytes]:
    """Return the serialised engine of an ONNX file, and the timings that building it took."""
    builder = trt.Builder(logger)
    # From version 11 on networks are always so, and the flag is ignored.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    onnx_parser = trt.OnnxParser(network, logger)
    if not onnx_parser.parse_from_file(str(onnx)):
        reasons = '; '.join(str(onnx_parser.get_error(i)) for i in range(onnx_parser.num_errors))
        raise InputError(f'TensorRT {trt.__version__} cannot read {onnx}: {reasons}')
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    for i, example in enumerate(inputs):
        one, most = ((size, *example.shape[1:]) for size in (1, max_batch))
        # A vehicle's camera brings one image at a time: that is what is made fast.
        profile.set_shape(network.get_input(i).name, one, one, most)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(f'TensorRT could not build {onnx}: see its messages above, or give it '
                         'more --workspace-mib')
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def run_engine(
    trt: Any, logger: Any, plan: bytes, names: tuple[str, ...], outputs: tuple[str, ...],
) -> Run:
    """
    Return an engine as a function of arrays; its buffers are PyTorch's.

    names, outputs: of its inputs and of what it returns, as in export.json.
    """
    context = trt.Runtime(logger).deserialize_cuda_engine(plan).create_execution_context()

    def run(*inputs: Floats) -> Outputs:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            held = {name: torch.from_numpy(value).cuda().contiguous()
                    for name, value in zip(names, inputs, strict=True)}
            for name, tensor in held.items():
                context.set_input_shape(name, tuple(tensor.shape))
            for name in outputs:
                held[name] = torch.empty(tuple(context.get_tensor_shape(name)),
                                         dtype=torch.float32, device='cuda')
            for name, tensor in held.items():
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError('TensorRT could not run the engine')
        stream.synchronize()
        return Outputs(*(held[name].cpu().numpy() for name in outputs))

    return run


def main(arguments: list[str] | None = None) -> None:
    """Build as the command line says; a mistake of the user is one line and exit code 1."""
    given = parser().parse_args(arguments)
    try:
        folder = export_folder(given.export)
        out = given.out or folder / f'{given.branch}.engine'
        made = build(given.export, given.branch, out, given.max_batch, given.workspace_mib,
                     given.timing_cache or folder / 'timing.cache')
    except InputError as error:
        sys.exit(f'tensorrt: {error}')
    parity = made['parity']
    print(f'{out}: {made["precision"]}, batches to {made["max_batch"]}, cosine to the model '
          f'at least {min(parity["descriptor_cosine"].values()):.6f}')


if __name__ == '__main__':
    main()
