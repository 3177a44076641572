#!/usr/bin/env bash
# Set up what the fleet uses but does not run: Redis with a user like a managed service's, a package index with TLS and a
# password, and a proxy. From prepare.yml: INDEX_PASSWORD, REDIS_PASSWORD and SUBNET, that of the hosts.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy install --no-install-recommends nginx-light openssl python3-venv redis-server tinyproxy

# Clients know the root only. The servers show the intermediate authority with their own certificate.
mkdir /etc/reach
cd /etc/reach
KEY=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc)
NAMES=(subjectKeyIdentifier=hash authorityKeyIdentifier=keyid)

# issue NAME SIGNER EXTENSION...: make a key and a certificate.
issue() {
  openssl req "${KEY[@]}" -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -days 30 -out "$1.pem" \
    -extfile <(printf '%s\n' "${NAMES[@]}" "${@:3}")
}

openssl req -x509 "${KEY[@]}" -days 30 -subj '/CN=Root of the services' -keyout root.key -out root.pem \
  -addext keyUsage=critical,keyCertSign,cRLSign
issue intermediate root basicConstraints=critical,CA:TRUE,pathlen:0 keyUsage=critical,keyCertSign,cRLSign
issue services1 intermediate basicConstraints=critical,CA:FALSE extendedKeyUsage=serverAuth subjectAltName=DNS:services1
cat services1.pem intermediate.pem >chain.pem
install -o redis -m 0400 services1.key redis.key

cat >/etc/redis/redis.conf <<END
bind 0.0.0.0
protected-mode no
port 0
tls-port 6379
tls-cert-file /etc/reach/chain.pem
tls-key-file /etc/reach/redis.key
tls-ca-cert-file /etc/reach/root.pem
tls-auth-clients no
dir /var/lib/redis
appendonly yes
maxmemory 100mb
maxmemory-policy noeviction
rename-command CONFIG ""
rename-command ACL ""
user default off resetpass allkeys allchannels +@all
user app on >$REDIS_PASSWORD ~* &* +@all -@admin -@dangerous +info -client|tracking
END
systemctl restart redis-server

# pypiserver sends those who ask for a package that it lacks to PyPI.
python3 -m venv /opt/pypiserver
/opt/pypiserver/bin/pip install --quiet --upgrade pypiserver==2.4.2 setuptools
for version in 1.0 1.1; do
  echo "VERSION = \"$version\"" >/usr/src/shop/shop/__init__.py
  /opt/pypiserver/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /srv/packages /usr/src/shop
done
systemd-run --unit=pypiserver --property=User=nobody /opt/pypiserver/bin/pypi-server run \
  --interface=127.0.0.1 --port=8080 --fallback-url=https://pypi.org/simple/ /srv/packages
(umask 027 && echo "deploy:$(openssl passwd -apr1 -stdin <<<"$INDEX_PASSWORD")" >htpasswd && chgrp www-data htpasswd)
cat >/etc/nginx/conf.d/packages.conf <<'END'
server {
  listen 443 ssl;
  ssl_certificate /etc/reach/chain.pem;
  ssl_certificate_key /etc/reach/services1.key;
  access_log /var/log/nginx/packages.log;
  auth_basic packages;
  auth_basic_user_file /etc/reach/htpasswd;
  location / {
    proxy_pass http://127.0.0.1:8080;
  }
}
END
systemctl restart nginx

echo "Allow $SUBNET" >>/etc/tinyproxy/tinyproxy.conf
systemctl restart tinyproxy
