#!/bin/sh
# The container's entry point: `serve` first copies the guest images that were built with the container's image to the
# volume of the data. The disks of sandboxes lie over the image that they were made from, and an upgrade of the
# container takes its own images away; the server removes those in the volume that nobody uses any more.
# usage: start.sh BUILT_IMAGES COMMAND...; copies to $CASEMATE_IMAGES
set -eu
built=$1
shift

copy() {
  mkdir -p "$CASEMATE_IMAGES"
  # The lock of `casemate image build`, which gives its own unfinished directories the same prefix.
  exec 9> "$CASEMATE_IMAGES/.lock"
  flock 9
  rm -rf "$CASEMATE_IMAGES"/.build-*
  for part in "$built"/*-*; do
    name=${part##*/}
    [ ! -e "$CASEMATE_IMAGES/$name" ] || continue
    echo "Copying the image part $name" >&2
    draft=$CASEMATE_IMAGES/.build-copy
    cp -r --preserve=mode,timestamps --sparse=always "$part" "$draft"
    sync -f "$draft"
    mv -T "$draft" "$CASEMATE_IMAGES/$name"
  done
}

if [ "${1:-}" = serve ]; then
  (copy)
fi
exec casemate "$@"
