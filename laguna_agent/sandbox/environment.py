"""The environment that model-chosen commands get: what tools need by name, and nothing that looks like a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ALLOWED = re.compile(
    r"""(?x)^(?:
      PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|HOSTNAME|CI|DISPLAY|WAYLAND_DISPLAY
    | XDG_\w+|DEBIAN_FRONTEND|SOURCE_DATE_EPOCH
    | VIRTUAL_ENV|CONDA_\w+|PYTHON\w*|PYENV_\w+|PIP_\w+|UV_\w+|POETRY_\w+|PYTEST_\w+|TOX_\w+|HYPOTHESIS_\w+
    | JAVA_\w+|JDK_\w+|MAVEN_\w+|M2_HOME|GRADLE_\w+|ANDROID_\w+|KOTLIN_\w+|SCALA_\w+|SBT_\w+
    | GO\w+|CGO_\w+|CARGO_\w+|RUST\w*|NODE\w*|NPM_\w+|npm_\w+|NVM_\w+|YARN_\w+|PNPM_\w+|BUN_\w+|DENO_\w+
    | GEM_\w+|BUNDLE_\w+|RUBY\w*|RBENV_\w+|PERL5?\w*|DOTNET_\w+|NUGET_\w+|SDKMAN_\w+|ASDF_\w+|MISE_\w+
    | CC|CXX|CPP|AR|LD|CFLAGS|CXXFLAGS|CPPFLAGS|LDFLAGS|LD_LIBRARY_PATH|DYLD_\w+|LIBRARY_PATH|CPATH|PKG_CONFIG\w*
    | CMAKE_\w+|MAKEFLAGS|CCACHE_\w+|SDKROOT|MACOSX_DEPLOYMENT_TARGET|NIX_\w+
    | CUDA_\w+|NVIDIA_\w+|HF_HOME|TORCH_\w+|OMP_\w+|MKL_\w+|OPENBLAS_\w+
    | (?i:https?_proxy|no_proxy|all_proxy)|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_(?:AUTHOR|COMMITTER)_\w+
    )$"""
)
_SECRET = re.compile(r"(?i)KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)|SESSION|COOKIE|^LAGUNA_")
_CREDENTIAL_IN_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")

# Nobody answers a prompt, turns a page or reads colours here.
_FIXED = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "NO_COLOR": "1",
    "DEBIAN_FRONTEND": "noninteractive",
}


def terminal_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What to set for a command that another program starts in its own environment, taken to be much like `outer`: the
    settings that keep programs from asking, and nothing in the place of each secret."""
    secrets = [name for name, value in outer.items() if _SECRET.search(name) or _CREDENTIAL_IN_URL.search(value)]
    return dict.fromkeys(secrets, "") | _FIXED


def command_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """Of `outer`, the variables on the allow-list whose name looks like no secret and whose value holds no URL with a
    password; plus settings that keep programs from asking."""
    kept = {
        name: value
        for name, value in outer.items()
        if _ALLOWED.match(name) and not _SECRET.search(name) and not _CREDENTIAL_IN_URL.search(value)
    }
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"} | kept | _FIXED
