# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# Settings for bootstrapping images of test hosts and test machines. Source it after lib.sh.

# The directory of CAs that this machine trusts in addition to Debian's.
CA_DIR=/usr/local/share/ca-certificates
# Files that are useless on a test host.
DPKG_FLAGS=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*'
  --dpkgopt='path-exclude=/usr/share/locale/*')

# debian_sources: print the sources.list lines of SUITE, with the mirrors of this machine's own suite.
debian_sources() {
  local own
  own=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  # indextargets reads both formats of sources, and knows who signed each of them; foreign archives
  # often use Debian's suite names.
  # shellcheck disable=SC2016 # the $(...) are apt's own placeholders
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI) $(COMPONENT)' 'Created-By: Packages' |
    awk -v own="$own" -v suite="$SUITE" '
      $1 == "Debian" && $4 == "main" && ($2 == own || $2 == own "-updates" || $2 == own "-security") {
        sub("^" own, suite, $2)
        print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " $3 " " $2 " main"
      }' | sort -u
}

# apt_options: print the settings of this machine's apt that it may need to reach its mirror.
apt_options() {
  apt-config dump --no-empty --format '%F "%v";%n' Acquire |
    grep -Ei '^Acquire::((http|https)::(Proxy|Timeout|CaInfo)|Retries|Check-Valid-Until|Check-Date|Languages) ' |
    sort -u || [[ $? == 1 ]] # none of them is set
}

# mirror: set `sources`, `options` and, as arguments of mmdebstrap, `apt_flags`.
mirror() {
  sources=$(debian_sources)
  if [[ -z $sources ]]; then
    say "reading the package lists of this machine's Debian mirror"
    quietly "$STATE_DIR/apt-update.log" apt-get update
    sources=$(debian_sources)
  fi
  [[ -n $sources ]] || die "this machine's apt knows no Debian mirror to bootstrap test hosts from"
  options=$(apt_options)
  mapfile -t apt_flags < <(sed -n 's/^\(.*\);$/--aptopt=\1/p' <<<"$options")
}

# own_authorities: print the files of the CAs that this machine trusts in addition to Debian's, each ended by a NUL.
own_authorities() {
  if [[ -d $CA_DIR ]]; then find "$CA_DIR" -name '*.crt' -print0 | sort -z; fi
}
