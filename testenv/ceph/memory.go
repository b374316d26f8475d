package ceph

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// memoryNeeded is the free space that the tests' images fit into several times, in bytes.
const memoryNeeded = 4 << 30

// Memory is a folder in memory for clusters whose tests give calls a few seconds: a disk that others share
// may take longer than that for what an OSD does. Where there is not enough memory, or it can't stand for a
// disk (Linux before 6.6 opens no file of it past the cache), it is the folder for temporary files.
func Memory() string {
	const shared = "/dev/shm"
	var stat unix.Statfs_t
	if unix.Statfs(shared, &stat) != nil || stat.Bavail*uint64(stat.Bsize) < memoryNeeded {
		return os.TempDir()
	}
	probe := filepath.Join(shared, "muster-ceph-probe")
	fd, err := unix.Open(probe, unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	_ = os.Remove(probe) // it may never have been there
	if err != nil {
		return os.TempDir()
	}
	_ = unix.Close(fd) // nothing was written
	return shared
}
