"""Tables of the options of producers: the web process, and its site of nginx.

They are data on the control node: preflight checks the inventory by them, and `python scripts/reference.py` writes the
role's argument spec and README. `Option` in `option.py` describes the fields of a row.
"""

from __future__ import annotations

import re
from typing import Final

from .option import Option
from .unit_options import UNIT

# fmt: off
WEB: Final[tuple[Option, ...]] = (
    Option("command", "list",
           "Its command line. It listens on file descriptor 3, a socket that systemd holds; C(python) means the "
           "release's interpreter.\n"
           "Versions of gunicorn that know C(--no-control-socket) need it, because the unit leaves no place for that "
           "socket.",
           elements="str"),
    *UNIT,
)

# Of celery_producer_web_static.
STATIC: Final[tuple[Option, ...]] = (
    Option("path", "path",
           "Directory on the host that nginx's user C(www-data) can read. This user can't enter the directories of "
           "releases and of the application's state. See docs/web.md.",
           required=True),
    Option("max_age", "int", "Seconds for which browsers may keep a file; without it nginx sends no cache headers.",
           lowest=0),
)

# Variables that are about nginx's site, and so have no effect without nginx.
SITE: Final[tuple[Option, ...]] = (
    Option("celery_producer_web_protected_paths", "list",
           "Path prefixes that require a password, such as C(/admin/).", default=[], elements="str"),
    Option("celery_producer_web_server_names", "list",
           "Names of the web site, by default C(celery_app_host_names).\n"
           "With them other sites of the host's nginx may use the same port.",
           default=[], elements="str"),
    Option("celery_producer_web_certificate", "path",
           "Certificate of the web site on the host, with its chain, for example certbot's C(fullchain.pem); by "
           "default the host's certificate from the fleet's authority.\n"
           "The program that renews it must reload nginx. For certificates below C(/etc/letsencrypt) the fleet "
           "installs a hook of certbot that does.",
           default=""),
    Option("celery_producer_web_certificate_key", "path",
           "Key of C(celery_producer_web_certificate) on the host. It must have no passphrase.", default=""),
    Option("celery_producer_web_static", "dict",
           "Directories that nginx serves itself, by the prefix of their path, such as C(/static/).", default={}),
    Option("celery_producer_web_max_body_size", "str",
           "Largest request, such as an upload: nginx's C(client_max_body_size). Without it nginx allows 1 MB; C(0) "
           "means no limit.",
           default="", syntax=re.compile(r"[0-9]+[kKmMgG]?"), like="20m, 1g or 0"),
    Option("celery_producer_web_hsts_max_age", "int",
           "Seconds for which browsers use only HTTPS for the site (HSTS); 0 for no such header. Browsers remember "
           "it, so begin with a short time.",
           default=0, lowest=0),
    Option("celery_producer_web_redirect_http", "bool",
           "Whether nginx also listens on port 80. It redirects to the site, and serves C(/var/www/html) below "
           "C(/.well-known/acme-challenge/), as C(certbot certonly --webroot) needs it.",
           default=False),
    Option("celery_producer_web_site_snippet", "str",
           "Directives of nginx for the site, inside its C(server) block.", default=""),
    Option("celery_producer_web_location_snippet", "str",
           "Directives of nginx for requests to the web process, inside each of their C(location) blocks.",
           default=""),
)

PRODUCER: Final[tuple[Option, ...]] = (
    Option("celery_producer_web", "dict",
           "The application's web process. Without a C(command) there is none, and the host only gets the producer's "
           "credentials and environment.",
           default={}, options=WEB),
    Option("celery_producer_web_proxy", "str",
           "What is in front of the web process. With C(none) there is no site of nginx: your own proxy uses the "
           "Unix socket, as a member of C(celery_app_proxy_group), or C(celery_producer_web_listen).",
           default="nginx", choices=("nginx", "none")),
    Option("celery_producer_web_trusted_proxies", "list",
           "Addresses of proxies whose C(X-Forwarded-…) headers the web process believes, or C(*) for all that reach "
           "it. gunicorn and uvicorn read it as C(FORWARDED_ALLOW_IPS).\n"
           "uvicorn needs C(*) behind a Unix socket, and gunicorn believes everything that comes through one.",
           elements="str", default=[]),
    Option("celery_producer_web_port", "int", "TLS port of the web site.", default=443),
    Option("celery_producer_web_listen", "str",
           "Address at which nginx reaches the web process: C(ADDRESS:PORT), such as C(127.0.0.1:5000), or empty for "
           "a Unix socket that only nginx can open.\n"
           "If it is not a loopback address, C(firewall_enabled) closes the port to all but the fleet.",
           default=""),
    *SITE,
    Option("celery_producer_web_auth_user", "str", "User name for the protected paths.", default="admin"),
    Option("celery_producer_web_auth_password", "str",
           "Password for the protected paths; required if there are any.", secret=True),
    Option("celery_producer_web_start_timeout", "int", "Seconds that the web process may take to answer.",
           default=60, lowest=1),
    Option("celery_producer_remote_control", "bool",
           "Whether producers may ping, inspect and control workers, for example revoke tasks.\n"
           "They can then also stop any worker and change what it consumes, because Redis can't tell the commands "
           "apart. See docs/network.md first.\n"
           "All producers share one Redis user, so C(true) for one host is C(true) for all.",
           default=False),
)
# fmt: on
