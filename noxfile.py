"""One session per job. `python3 noxfile.py SESSION` and `nox -s SESSION` are equivalent.

    python3 noxfile.py demo              train for three minutes, export, and generate verse
    python3 noxfile.py tests             everything that CI runs
    python3 noxfile.py --list            all sessions
    python3 noxfile.py tests -- -k gru   arguments after -- are passed on

If nox is not installed, this file first installs it into .nox-bootstrap. All versions are pinned in
constraints.txt. Environments are kept in .nox: one for sessions that need torch, one without it, and small
ones for the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints.txt"


def start_nox() -> int:
    """Run this file's sessions with nox, which is installed first if necessary."""
    if sys.version_info < (3, 11):  # noqa: UP036  (older versions get this far)
        sys.exit(f"charrnn needs Python 3.11 or newer, but this is {sys.version.split()[0]}")
    environment = dict(os.environ)
    if find_spec("nox") is None:
        environment["PYTHONPATH"] = str(fetch_nox())  # sessions clear it again
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        arguments = ["-s", *arguments]
    command = [sys.executable, "-m", "nox", "-f", str(ROOT / "noxfile.py"), *arguments]
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # nox gets the signal too, and ends its session cleanly


def fetch_nox() -> Path:
    """Install nox atomically into a folder per version of nox and Python, and return the folder."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    folder = ROOT / ".nox-bootstrap" / f"{python}-{pinned('nox').replace('==', '-')}"
    if folder.is_dir():
        return folder
    print(f"installing {pinned('nox')} into {folder}", file=sys.stderr, flush=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--target", str(partial), "--constraint", str(CONSTRAINTS), "nox"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            sys.exit("cannot install nox: see above (this needs pip and access to a package index)")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def pinned(package: str) -> str:
    """The line of constraints.txt for a package."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{package}=="):
            return line.split(";")[0].strip()
    sys.exit(f"{CONSTRAINTS} does not pin {package}")


if __name__ == "__main__":
    sys.exit(start_nox())

import nox  # noqa: E402  (it may be missing until here)

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests"]
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False  # `pythons` uses the installed ones

EVERYTHING = "."
WITH_EXTRAS = ".[compare,serve,tensorboard,zstd]"
RUNTIME = "./runtime"
RUNTIME_WITH_EXTRAS = "./runtime[serve,zstd]"
TRAINER = "./trainer"
TEST_TOOLS = ("pytest", "hypothesis", "gunicorn", "onnxruntime-ep-webgpu", "openai")
LINT_TOOLS = ("ruff", "mypy", "types-protobuf", "import-linter", "nox")
BROWSER_TOOLS = ("playwright",)  # and Chromium, which is not a Python package
BUILD_TOOLS = ("build", "hatchling", "editables")
DOCS_TOOLS = ("mkdocs-material", "mkdocstrings-python", "ruff")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

PROMPT = "LORD "
JAVASCRIPT = ROOT / "js"

QUICK_TRAINER_TESTS = tuple(
    f"tests/trainer/test_{name}.py"
    for name in (
        *("cells", "checkpoint", "compare_report", "export", "export_command", "golden_models", "network"),
        "train_command",
    )
)
"""The trainer's tests that use torch, onnx and safetensors; test_proto needs a newer protobuf."""


# --- environments ------------------------------------------------------------------------------------------


def isolate(session: nox.Session) -> None:
    """Hide modules from outside the session, and restrict pip to the pinned versions."""
    session.env["PYTHONPATH"] = None
    session.env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    session.env["PIP_CONSTRAINT"] = str(CONSTRAINTS)
    session.env["PIP_BUILD_CONSTRAINT"] = str(CONSTRAINTS)


class FullEnvironment:
    """Everything that `pip install .` installs, including torch, and some tools.

    torch is large, so the sessions that need it share this environment. It is created like a session's own,
    and updated every time.
    """

    def __init__(self, session: nox.Session, *tools: str, project: str = EVERYTHING) -> None:
        self.session = session
        isolate(session)
        folder = ROOT / ".nox" / "full"
        self.programs = folder / ("Scripts" if os.name == "nt" else "bin")
        session.env["PATH"] = os.pathsep.join([str(self.programs), os.environ.get("PATH", "")])
        quiet = ["--quiet"]
        if not self.made_by_this_python(folder):
            with_nox = {"PYTHONPATH": os.environ.get("PYTHONPATH")}  # virtualenv comes with nox
            session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(folder), env=with_nox)
            quiet = []  # the first installation takes minutes, so show its progress
        self.run("python", "-m", "pip", "install", *quiet, *tools, project)

    def made_by_this_python(self, folder: Path) -> bool:
        """Whether the environment exists and belongs to the Python that runs this file."""
        version = ".".join(map(str, sys.version_info[:3]))
        settings = folder / "pyvenv.cfg"
        return settings.is_file() and f"version_info = {version}." in settings.read_text(encoding="utf-8")

    def try_to_install(self, package: str) -> None:
        """Install an optional package."""
        command = [str(self.programs / "python"), "-m", "pip", "install", "--quiet", package]
        self.session.run(*command, success_codes=[0, 1])

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of this environment; after Ctrl-C, it has a minute to save its work."""
        path = shutil.which(program, path=str(self.programs)) or self.session.error(f"{program} is missing")
        self.session.run(path, *arguments, stderr=None, interrupt_timeout=60, terminate_timeout=60)


def install_npm_packages(session: nox.Session) -> None:
    """Install the packages of js/package-lock.json into js/node_modules, unless they are there already."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        session.skip("needs Node 20 or newer with npm, which is not installed")
    lock, installed = JAVASCRIPT / "package-lock.json", JAVASCRIPT / "node_modules" / ".installed-lock.json"
    if installed.is_file() and installed.read_bytes() == lock.read_bytes():
        return
    # onnxruntime-node would download CUDA libraries; no other package has a script that is needed.
    session.env["ONNXRUNTIME_NODE_INSTALL"] = "skip"
    with session.chdir(JAVASCRIPT):
        session.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", external=True)
    shutil.copyfile(lock, installed)


def build_cpp_host(session: nox.Session, python: str, options: Sequence[str] = ()) -> Path:
    """Build examples/cpp and give the program; without CMake's options, with the onnxruntime of a Python."""
    folder = Path(session.create_tmp()).resolve()
    if not options:
        command = [python, "tests/environments/cpp_packages.py", str(folder)]
        packages = session.run(*command, silent=True, external=True)
        options = [line for line in str(packages).splitlines() if line.startswith("-D")]
    program = folder / "build" / "charrnn"
    session.run("cmake", "-S", "examples/cpp", "-B", str(program.parent), *options, external=True)
    session.run("cmake", "--build", str(program.parent), external=True)
    return program


# --- sessions ----------------------------------------------------------------------------------------------

DEMO = ("--minutes", "3")

COURSE_PRESET = ("--precision", "bf16", "--threads", "1")
MODELS = {
    "lstm": (("--cell", "lstm", *COURSE_PRESET), ("fp32", "int8")),
    "gru": (("--cell", "gru", *COURSE_PRESET), ("fp32",)),
    "rnn": (("--cell", "rnn", *COURSE_PRESET), ("fp32",)),
    "best": (("--recipe", "best", "--precision", "bf16", "--threads", "1"), ("fp32", "int8")),
}
"""The pretrained models by name: the settings that train each, and the precisions in which it is exported
(any except fp32 is part of the file's name)."""

COMPARISON = (
    *("--layers", "1", "--hidden-size", "256", "--embedding-size", "65"),
    *("--batch-size", "16", "--seq-length", "64", "--steps", "10000", "--random-start"),
    *("--schedule", "cosine", "--warmup-steps", "300", "--save-every", "5000"),
    *("--precision", "fp32", "--threads", "1"),
)
"""The settings of the runs in docs/compare."""


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train for three minutes, export, and generate verse; arguments after -- go to charrnn-train."""
    full = FullEnvironment(session)
    full.run("charrnn-train", *DEMO, *session.posargs)
    full.run("charrnn-export", "ckpt", "ckpt/demo.onnx")
    full.run("charrnn-gen", "ckpt/demo.onnx", "--prime", PROMPT)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run everything that CI runs, including lint and docs; with arguments after --, only pytest."""
    full = FullEnvironment(session, *TEST_TOOLS, *BROWSER_TOOLS, *BUILD_TOOLS, project=WITH_EXTRAS)
    if session.posargs:
        full.run("pytest", *session.posargs)
        return
    session.notify("lint")
    session.notify("docs")
    session.notify("runtime_tests")
    session.notify("javascript", posargs=["--quick"])
    full.run("pytest", "tests/trainer", "tests/integration")


@nox.session(reuse_venv=True)
def runtime_tests(session: nox.Session) -> None:
    """Run the runtime's tests without torch and onnx installed; arguments after -- go to pytest."""
    isolate(session)
    session.install(*TEST_TOOLS, RUNTIME_WITH_EXTRAS)
    absent = "from importlib.util import find_spec; assert not (find_spec('torch') or find_spec('onnx'))"
    session.run("python", "-c", absent)
    session.run("pytest", *(session.posargs or ["tests/runtime"]))


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, types, imports between layers and advisories; arguments after -- go to ruff check."""
    full = FullEnvironment(session, *LINT_TOOLS, *TEST_TOOLS, project=WITH_EXTRAS)
    full.run("ruff", "check", *session.posargs)
    full.run("ruff", "format", "--check")
    full.run("mypy")
    full.run("lint-imports")
    full.run("python", "tests/environments/advisories.py", str(CONSTRAINTS))


@nox.session(reuse_venv=True)
def docs(session: nox.Session) -> None:
    """Build the documentation into site/ with warnings as errors, and check its links."""
    isolate(session)
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # hide an advertisement
    session.install(*DOCS_TOOLS)
    session.run("mkdocs", "build", "--strict", *session.posargs)
    session.run("python", "docs/tools/check_site.py", "site")


@nox.session(venv_backend="none")
def javascript(session: nox.Session) -> None:
    """Test the npm package in Node and Chromium against the Python runtime; -- --quick runs fewer tests."""
    full = FullEnvironment(session, *TEST_TOOLS, *BUILD_TOOLS, project=WITH_EXTRAS)
    install_npm_packages(session)
    results = Path(session.create_tmp()).resolve() / "expected"
    full.run("python", "js/tools/expected.py", str(results / "texts.json"), *session.posargs)
    full.run("python", "js/tools/hostile.py", str(results), *session.posargs)
    with session.chdir(JAVASCRIPT):
        session.run("npm", "run", "--silent", "types", external=True)
        session.run("npm", "run", "--silent", "check", external=True)
        session.run("npm", "test", "--silent", env={"CHARRNN_EXPECTED": str(results)}, external=True)


@nox.session(venv_backend="none")
def demo_page(session: nox.Session) -> None:
    """Build the demo page for browsers, with onnxruntime and the models, into docs/demo."""
    install_npm_packages(session)
    session.run("node", "js/demo/build.js", "docs/demo", external=True)


@nox.session(venv_backend="none")
def nightly(session: nox.Session) -> None:
    """Run the slow tests, then the integration tests with every command really started.

    Arguments after -- go to pytest, and only the slow tests run. See tests/forked.py.
    """
    full = FullEnvironment(session, *TEST_TOOLS, *BROWSER_TOOLS, *BUILD_TOOLS, project=WITH_EXTRAS)
    session.env["CHARRNN_TESTS_REAL_START"] = "1"
    full.run("pytest", "-m", "nightly", *session.posargs)
    if not session.posargs:
        full.run("pytest", "tests/integration")


@nox.session(reuse_venv=True)
def gpu_software(session: nox.Session) -> None:
    """Test WebGPU on a software GPU, which is downloaded if necessary; arguments after -- go to pytest.

    The software GPU is SwiftShader, which comes with Chromium: the installed one, or Debian's package.
    """
    isolate(session)
    session.install(*TEST_TOOLS, RUNTIME)
    session.run("python", "tests/software_gpu.py")
    session.run(
        "pytest", *(session.posargs or ["tests/runtime/test_webgpu.py", "-m", "nightly or not nightly"])
    )


@nox.session(venv_backend="none")
def mutations(session: nox.Session) -> None:
    """Feed 10,000 mutated models and 10,000 mutated checkpoints to their readers; options follow --."""
    full = FullEnvironment(session)
    full.run("python", "tests/mutation_workers.py", *session.posargs)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Fuzz the readers, guided by coverage; -- --minutes N sets the time (default: 2).

    This needs atheris, which has wheels for Linux on x86-64 and Python 3.11 to 3.14; otherwise the session
    fails. Findings are kept in tests/data/found, which the tests read. Inputs that reached new code are kept
    in .nox/fuzz, and the next search starts from them.
    """
    full = FullEnvironment(session, "atheris")
    full.run("python", "tests/fuzzing.py", "--corpus", str(ROOT / ".nox" / "fuzz"), *session.posargs)


@nox.session(reuse_venv=True)
def serve_clients(session: nox.Session) -> None:
    """Test the server with large clients, langchain-openai and lm-eval; arguments after -- go to pytest.

    They install gigabytes, and constraints.txt does not pin their dependencies.
    """
    isolate(session)
    session.install(*TEST_TOOLS, RUNTIME_WITH_EXTRAS, "langchain-openai", "lm-eval[api]")
    session.run("pytest", "-W", "default", "tests/clients", *session.posargs)


@nox.session(reuse_venv=True)
def serve_fuzz(session: nox.Session) -> None:
    """Fuzz each endpoint of the server with valid and invalid requests; options follow --."""
    isolate(session)
    session.install(RUNTIME_WITH_EXTRAS, "schemathesis")
    session.run("python", "tests/serve_fuzzing.py", *session.posargs)


@nox.session(venv_backend="none")
def kills(session: nox.Session) -> None:
    """Kill the commands 200 times at random moments, and check the remaining files; options follow --."""
    full = FullEnvironment(session)
    full.run("python", "tests/kills.py", *session.posargs)


@nox.session(reuse_venv=True)
def minimums(session: nox.Session) -> None:
    """Test with the oldest allowed versions of the dependencies; arguments after -- go to pytest."""
    isolate(session)
    session.install("packaging")
    lines = session.run("python", "tests/environments/oldest.py", "runtime", "trainer", silent=True)
    constraints = Path(session.create_tmp()) / "oldest.txt"
    tools = [pinned(tool) for tool in TEST_TOOLS]
    constraints.write_text("\n".join([*tools, str(lines)]), encoding="utf-8")
    session.env["PIP_CONSTRAINT"] = str(constraints)
    # Without the extra tensorboard, which needs a newer protobuf.
    session.install(*TEST_TOOLS, RUNTIME_WITH_EXTRAS, f"{TRAINER}[compare]")
    # Old and new versions are mixed here, and their warnings do not concern this project.
    warnings = ("-W", "default::DeprecationWarning", "-W", "default::PendingDeprecationWarning")
    session.run("pytest", *warnings, *(session.posargs or ["tests/runtime", *QUICK_TRAINER_TESTS]))


@nox.session(reuse_venv=True)
def ray(session: nox.Session) -> None:
    """Test Ray Data actors and Ray Serve replicas on this machine; arguments after -- go to pytest."""
    isolate(session)
    session.install(*TEST_TOOLS, f"{RUNTIME}[ray]")
    session.run("pytest", "-W", "default", *(session.posargs or ["tests/cluster"]))  # Ray has many warnings


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run the runtime's tests on each installed Python; arguments after -- go to pytest."""
    isolate(session)
    session.install(*TEST_TOOLS, RUNTIME_WITH_EXTRAS)
    session.run("pytest", *(session.posargs or ["tests/runtime"]))


@nox.session(reuse_venv=True)
def platforms(session: nox.Session) -> None:
    """Resolve the dependencies for each supported platform and Python, and print a table."""
    isolate(session)
    session.install("uv", "packaging")
    session.run("python", "tests/environments/platforms.py")


@nox.session(reuse_venv=False)
def container(session: nox.Session) -> None:
    """Run the Dockerfile's steps without a container engine; targets follow -- (cpu, cuda; default: cpu)."""
    isolate(session)  # an environment that contains only pip replaces the base image
    session.run("python", "tests/environments/container.py", *session.posargs)


@nox.session(reuse_venv=True)
def cpp(session: nox.Session) -> None:
    """Build examples/cpp and compare its texts with Python's; CMake options follow --.

    This needs CMake and a C++20 compiler. Without options, it uses the onnxruntime library of the Python
    package and headers from Debian's packages, which needs apt-get.
    """
    isolate(session)
    session.install("pytest", "hypothesis", RUNTIME)
    program = build_cpp_host(session, "python", session.posargs)
    session.run("pytest", "tests/hosts/test_cpp.py", env={"CHARRNN_CPP_HOST": str(program)})


TRITON = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "protobuf==6.33.6", "ml_dtypes==0.5.4")
"""A package that contains NVIDIA's server, and dependencies whose versions differ from constraints.txt."""


@nox.session(reuse_venv=True)
def triton(session: nox.Session) -> None:
    """Run the output of charrnn-triton on NVIDIA's server; arguments after -- go to pytest.

    This needs Linux on x86-64, g++, and Debian's packages for the onnxruntime headers.
    """
    isolate(session)
    folder = Path(session.create_tmp()).resolve()
    others = {package.partition("==")[0] for package in TRITON}
    pins = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    lines = [line for line in pins if line.partition("==")[0] not in others]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([*lines, *TRITON]), encoding="utf-8")
    session.env["PIP_CONSTRAINT"] = str(constraints)
    session.install("pytest", "hypothesis", "nvidia-pytriton", "tritonclient[grpc]", RUNTIME)
    session.run("python", "tests/environments/cpp_packages.py", str(folder), silent=True)
    backend = folder / "libtriton_onnxruntime.so"
    compiler = ["g++", "-std=c++20", "-O2", "-shared", "-fPIC", "-o", str(backend)]
    compiler += ["-isystem", str(folder / "debian" / "usr" / "include" / "onnxruntime")]
    libraries = ["-L", str(folder / "lib"), "-lonnxruntime", f"-Wl,-rpath,{folder / 'lib'}"]
    session.run(*compiler, "tests/hosts/onnxruntime_backend.cpp", *libraries, external=True)
    session.env["CHARRNN_TRITON_BACKEND"] = str(backend)
    session.run("pytest", "tests/hosts/test_triton_server.py", *session.posargs)


@nox.session(reuse_venv=True)
def build(session: nox.Session) -> None:
    """Build wheels and sdists of both distributions into dist/; arguments after -- go to python -m build."""
    isolate(session)
    session.install(*BUILD_TOOLS)
    for project in (RUNTIME, TRAINER):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", "dist", *session.posargs, project)


STANDIN = "CHARRNN_CUDA_STANDIN"
"""The environment variable with the folder of the stand-ins for CUDA's libraries."""


@nox.session(reuse_venv=True)
def cuda_standin(session: nox.Session) -> None:
    """Run the runtime's GPU tests on stand-ins for CUDA's libraries; arguments after -- go to pytest.

    CHARRNN_CUDA_STANDIN is a folder whose build.sh builds the stand-ins, with g++, into the folder passed to
    it. Without the variable, the session is skipped. onnxruntime's real CUDA provider runs on the stand-ins.
    This tests what the host does, not a GPU.
    """
    folder = os.environ.get(STANDIN)
    if not folder:
        session.skip(f"{STANDIN} is not set to a folder with stand-ins for CUDA's libraries")
    isolate(session)
    session.install(*TEST_TOOLS, RUNTIME)
    built = Path(session.create_tmp()).resolve() / "cuda"
    session.run("bash", str(Path(folder).resolve() / "build.sh"), str(built), external=True)
    session.env.update(LD_LIBRARY_PATH=str(built), FAKE_CUDA_QUIET="1", FAKE_CUDA_LOG=os.devnull)
    computing = {"FAKE_CUDA_EXEC": "1"}
    session.run("pytest", "-m", "gpu", "tests/runtime/test_cuda.py", *session.posargs, env=computing)
    if not session.posargs:
        session.run("python", "tests/benchmarks/standin.py", env={"FAKE_CUDA_EXEC": "0"})


@nox.session(venv_backend="none")
def models(session: nox.Session) -> None:
    """Train and export the pretrained models, resuming interrupted runs; names follow -- (default: all)."""
    chosen = session.posargs or list(MODELS)
    if unknown := set(chosen) - set(MODELS):
        session.error(f"unknown model: {', '.join(sorted(unknown))}; choose from {', '.join(MODELS)}")
    full = FullEnvironment(session, project=WITH_EXTRAS)
    for name in chosen:
        run = ROOT / "ckpt" / "models" / name
        settings, precisions = MODELS[name]
        command = f"{name}={' '.join(settings)}"
        begun = (run / "config.toml").is_file()
        if begun:  # it must have the same settings
            full.run("python", "tests/benchmarks/models_page.py", "--check", command)
        start = ["--resume", str(run)] if begun else ["--out", str(run), *settings]
        full.run("charrnn-train", *start)
        for precision in precisions:
            model = f"models/{name}.onnx" if precision == "fp32" else f"models/{name}.{precision}.onnx"
            full.run("charrnn-export", str(run), model, "--precision", precision)
    if not session.posargs:
        commands = [f"{name}={' '.join(settings)}" for name, (settings, _) in MODELS.items()]
        full.run("python", "tests/benchmarks/models_page.py", *commands)


@nox.session(venv_backend="none")
def comparison(session: nox.Session) -> None:
    """Train an LSTM, a GRU and an RNN with the same settings, and compare them in docs/compare.

    This takes about ten minutes on one core. An interrupted run is resumed.
    """
    full = FullEnvironment(session, project=WITH_EXTRAS)
    runs = [f"ckpt/compared/{cell}" for cell in ("lstm", "gru", "rnn")]
    for run in runs:
        begun = (ROOT / run / "config.toml").is_file()
        start = ["--resume", run] if begun else ["--out", run, "--cell", Path(run).name, *COMPARISON]
        full.run("charrnn-train", *start)
    full.run("charrnn-compare", *runs, "--prime", PROMPT, "--out", "docs/compare")


PICTURES = {"train": "tests/terminal_picture.py", "page": "tests/page_picture.py"}
"""The scripts that make the documentation's pictures."""


@nox.session(venv_backend="none")
def picture(session: nox.Session) -> None:
    """Make docs/train.svg (three minutes of training in tmux) or, with -- page, docs/page.png.

    docs/page.png needs Chromium. The script's options follow.
    """
    chosen, *options = session.posargs or ["train"]
    if chosen.startswith("-"):
        chosen, options = "train", list(session.posargs)
    if chosen not in PICTURES:
        session.error(f"unknown picture: {chosen}; choose from {', '.join(PICTURES)}")
    tools = BROWSER_TOOLS if chosen == "page" else ()
    full = FullEnvironment(session, *tools, project=WITH_EXTRAS)
    full.run("python", PICTURES[chosen], *options)


BENCHMARKS = {
    "generation": "characters per second, compared with PyTorch, NumPy and the limit",
    "scheduler": "the scheduler's own time, and its memory use over a million short requests",
    "long": "whether memory use and speed stay constant over millions of characters",
    "processes": "whether memory use and open files stay constant over a thousand forks and pickles",
    "serve": "speed of charrnn-serve, compared with the scheduler and a tutorial's server; --soak MINUTES",
    "big": "MB per second and peak memory for texts of up to 1,000 MB",
    "gpu": "characters per second on a GPU, compared with PyTorch on the same GPU",
    "train": "seconds per training step, compared with a standard PyTorch loop and the limit",
    "budget": "whether --minutes keeps its time on given texts, and the share of validation",
    "gpu_training": "seconds per training step on a GPU, compared with a standard PyTorch loop",
    "ray_data": "seconds to score lines with and without Ray",
    "scoring": "characters per second in scoring lines of several lengths, with one and two threads",
    "hosts": "characters per second of the C++ example, compared with Python",
    "javascript": "characters per second of the npm package in Node and Chromium, compared with Python",
    "texts": "bits per character after some minutes on given texts, compared with n-gram models and PPMd",
}
"""The benchmarks by name."""

BASELINES = {"texts": "pyppmd", "serve": "fastapi", "ray_data": "ray[data,serve]"}
"""The packages that some benchmarks compare with if they can be installed."""


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Run a benchmark, named after -- (generation, scheduler, ...; see BENCHMARKS), with its options."""
    chosen, *options = session.posargs or ["generation"]
    if chosen.startswith("-"):
        chosen, options = "generation", list(session.posargs)
    if chosen not in BENCHMARKS:
        known = "; ".join(f"{name}: {about}" for name, about in BENCHMARKS.items())
        session.error(f"unknown benchmark: {chosen}; choose from {known}")
    full = FullEnvironment(session, project=WITH_EXTRAS if chosen == "serve" else EVERYTHING)
    if chosen in BASELINES:
        full.try_to_install(BASELINES[chosen])
    if chosen == "javascript":
        install_npm_packages(session)
    if chosen == "hosts" and "--program" not in options:
        options += ["--program", str(build_cpp_host(session, str(full.programs / "python")))]
    script = {"long": "long_runs", "big": "big_text", "train": "training"}.get(chosen, chosen)
    full.run("python", f"tests/benchmarks/{script}.py", *options)
