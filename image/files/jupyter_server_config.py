"""JupyterLab in this image: reachable from outside, only with a token or password, never as root.

Every `jupyter lab` reads this file. Without JUPYTER_TOKEN, the server makes a token and prints it.
"""

import os
import sys

from jupyter_server.auth.identity import PasswordIdentityProvider


class NeverOpen(PasswordIdentityProvider):
    """Checked once before the server listens, when all its settings are read."""

    def validate_security(self, app, ssl_options=None):
        if os.geteuid() == 0:
            sys.exit("JupyterLab does not run as root: anyone with the token gets a shell")
        empty = not os.environ.get("JUPYTER_TOKEN", "left out").strip()
        if empty or not (self.token.strip() or self.hashed_password):
            sys.exit("The token is empty: leave out JUPYTER_TOKEN, and the server makes a token")
        super().validate_security(app, ssl_options)


c = get_config()  # noqa: F821
c.ServerApp.identity_provider_class = NeverOpen
c.ServerApp.ip = "0.0.0.0"  # inside the container; publish it on the host's 127.0.0.1
c.ServerApp.open_browser = False
c.ServerApp.terminado_settings = {"shell_command": ["/usr/bin/zsh"]}
