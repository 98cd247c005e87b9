"""Service that others can reach, whose store was away at its start and has no key: it says why it refuses all."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, wait_until


def test_it_is_said_until_there_is_a_key(tmp_path: Path) -> None:
    with ThrowawayStore() as store:
        store.kill()
        service = ThrowawayService(tmp_path, "--host", "0.0.0.0", store=store.url)

        def bring_back() -> None:
            wait_until(lambda: any("waiting for the store" in line for line in service.output))
            store.start()

        bringing = threading.Thread(target=bring_back)
        bringing.start()
        with service:
            bringing.join()
            service.url = f"http://127.0.0.1:{service.port}"

            def reasons() -> list[str]:
                body = service.call("GET", "/health/ready").body
                return [each["what"] for each in body.get("reasons", [])]

            wait_until(lambda: reasons() == ["no_keys"])
            assert service.call("GET", "/v1/stats").status == 401
            assert sum("degraded (no_keys)" in line for line in service.output) == 1
            command = [sys.executable, "-m", "bandit_serve", "keys", "create", "--scope", "admin"]
            command += ["--data", str(tmp_path), "--store", store.url]
            subprocess.run(command, check=True, capture_output=True, env=clean_environment())
            wait_until(lambda: reasons() == [])
