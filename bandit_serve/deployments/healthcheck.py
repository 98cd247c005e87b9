"""Health check of an image, as a program of its own: it ends with 0 while `/health/ready` answers 200."""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 4.0


def main() -> int:
    where = ("127.0.0.1", int(os.environ.get("BANDIT_SERVE_PORT") or 8000))
    connection = (
        # Who asks is the same container: what the certificate says of its name is of no use here.
        http.client.HTTPSConnection(*where, timeout=TIMEOUT_S, context=ssl._create_unverified_context())
        if os.environ.get("BANDIT_SERVE_TLS_CERT")
        else http.client.HTTPConnection(*where, timeout=TIMEOUT_S)
    )
    try:
        connection.request("GET", "/health/ready")
        return int(connection.getresponse().status != 200)
    except (OSError, http.client.HTTPException) as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
