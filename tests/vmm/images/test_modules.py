from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from vmm.errors import Unavailable
from vmm.images import initramfs
from vmm.images.modules import ModuleTree, module_name

_DEPENDENCIES = {
    "kernel/net/virtio_net.ko": "kernel/net/net_failover.ko kernel/net/failover.ko kernel/v/virtio.ko kernel/v/ring.ko",
    "kernel/net/net_failover.ko": "kernel/net/failover.ko",
    "kernel/net/failover.ko": "",
    "kernel/v/virtio.ko": "kernel/v/ring.ko",
    "kernel/v/ring.ko": "",
    "kernel/char/virtio-rng.ko.xz": "kernel/v/virtio.ko kernel/v/ring.ko",
}
_GUEST = (
    *("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "vmw_vsock_virtio_transport"),
    *("virtio_balloon", "overlay", "erofs"),
)


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    needs = _DEPENDENCIES | {f"kernel/x/{name}.ko": "" for name in _GUEST}
    for path in needs:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(lzma.compress(b"module") if path.endswith(".xz") else b"module")
    (tmp_path / "modules.dep").write_text("".join(f"{path}: {others}\n" for path, others in needs.items()))
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return ModuleTree.read(tmp_path)


def test_each_module_is_listed_once_and_after_its_dependencies(tree: ModuleTree) -> None:
    order = tree.order(["virtio_net", "virtio-rng"])
    assert len(order) == len(set(order)) == 6
    for path in order:
        for other in tree.needs[path]:
            assert order.index(other) < order.index(path)


def test_a_built_in_module_needs_no_file(tree: ModuleTree) -> None:
    assert tree.order(["ext4"]) == ()


def test_a_missing_module_is_named(tree: ModuleTree) -> None:
    with pytest.raises(Unavailable, match="zfs"):
        tree.order(["zfs"])


def test_a_compressed_module_is_loaded_uncompressed(tree: ModuleTree) -> None:
    assert tree.load("kernel/char/virtio-rng.ko.xz") == b"module"


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(Unavailable, match=r"virtio\.ko\.zst"):
        module_name("kernel/v/virtio.ko.zst")


def test_an_initramfs_is_reproducible_and_contains_everything_that_init_uses(tree: ModuleTree, tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"static")
    made = initramfs.build(tree, busybox)
    assert made == initramfs.build(tree, busybox)
    content = gzip.decompress(made)
    script = (Path(initramfs.__file__).parent / "init.sh").read_bytes()
    assert script in content
    assert b"network='ring.ko virtio.ko failover.ko net_failover.ko virtio_net.ko'\n" in content
    assert b"random='ring.ko virtio.ko virtio-rng.ko'\n" in content
    for group in initramfs.GROUPS:
        assert f"${group}".encode() in script
