#!/bin/sh
# Generates the secrets of docker-compose.yml, each into the volume of the service that reads it. Idempotent: secrets
# that exist are kept.
# usage: secrets.sh MONGO_DIRECTORY CASEMATE_DIRECTORY
set -eu
umask 022
mongo=$1
casemate=$2

random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
# Write atomically, so that an interrupted run leaves no half of a secret. Everybody may read it, because the services
# run as other users than this script; nobody but them has the volume.
create() {
  [ -s "$1" ] && return
  rm -f "$1.new"
  printf '%s\n' "$2" > "$1.new"
  chmod 444 "$1.new"
  mv "$1.new" "$1"
  echo "Created $1"
}
create "$mongo/mongo-root-password" "$(random)"
create "$mongo/mongo-password" "$(random)"
create "$casemate/mongo-uri" "mongodb://casemate:$(cat "$mongo/mongo-password")@mongo:27017/casemate"
create "$casemate/metrics-token" "$(random)"
