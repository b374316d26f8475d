package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodePublishVolume gives a pod the device, or the filesystem on it, which a new volume gets first.
func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if _, err := d.store.get("volumes", r.VolumeId); err != nil {
		return nil, err
	}
	if mounted(r.TargetPath) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	device, err := d.device(d.store.image("volumes", r.VolumeId))
	if err != nil {
		return nil, err
	}
	if r.VolumeCapability.GetBlock() != nil {
		if err := os.MkdirAll(filepath.Dir(r.TargetPath), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(r.TargetPath, nil, 0o600); err != nil {
			return nil, err
		}
		return &csi.NodePublishVolumeResponse{}, command("mount", "--bind", device, r.TargetPath)
	}
	if err := os.MkdirAll(r.TargetPath, 0o755); err != nil {
		return nil, err
	}
	if exec.Command("blkid", device).Run() != nil {
		if err := command("mkfs.ext4", "-q", "-E", "nodiscard", device); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, command("mount", device, r.TargetPath)
}

// device is the loop device over an image.
func (d *driver) device(image string) (string, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if found := loops(image); len(found) > 0 {
		return found[0], nil
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if mounted(r.TargetPath) {
		if err := command("umount", r.TargetPath); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(r.TargetPath); err != nil {
		return nil, err
	}
	for _, device := range loops(d.store.image("volumes", r.VolumeId)) {
		_ = exec.Command("losetup", "--detach", device).Run() // it goes with its last user
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func mounted(path string) bool {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(mounts), " "+path+" ")
}
