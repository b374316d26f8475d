package machine

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// MarkerPath is the file that says which run restores a machine, so that a resumed run knows its own
// half-done work from a machine that is not blank.
const MarkerPath = "/etc/muster/run"

// DefaultExclude lists what must not travel: the running kernel's views, temporary files, container
// images and sandboxes, and etcd's data, which comes back from its snapshot. Paths are absolute; a
// folder's own entry is kept and its content left out.
func DefaultExclude() []string {
	return []string{
		"/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/mnt", "/media", "/lost+found", "/swapfile", "/swap.img",
		"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/crio", "/var/lib/cni",
		"/var/lib/etcd", "/var/lib/muster",
		"/var/lib/kubelet/pods", "/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry", "/var/lib/kubelet/device-plugins",
		"/var/lib/kubelet/pod-resources", "/var/lib/kubelet/checkpoints", "/var/lib/kubelet/allocated_pods_state",
		"/var/lib/kubelet/actuated_pods_state", "/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state",
		"/var/lib/kubelet/dra_manager_state", "/var/log/pods", "/var/log/containers", "/etc/muster",
	}
}

// DefaultKeep lists what belongs to the target machine and is not overwritten: its disks, kernel,
// network and the keys by which it is known and reached.
func DefaultKeep() []string {
	return []string{
		"/boot", "/usr/lib/modules", "/lib/modules", "/etc/fstab", "/etc/crypttab", "/etc/mdadm", "/etc/machine-id",
		"/etc/network", "/etc/netplan", "/etc/NetworkManager", "/etc/systemd/network", "/etc/resolv.conf",
		"/etc/ssh", "/root/.ssh",
	}
}

// tarFlags keep owners as numbers, modes, times, xattrs (file capabilities among them), ACLs, hard
// links and holes, in an order and a form that are the same on every machine: what is equal must
// become equal chunks.
const tarFlags = "--format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --numeric-owner --xattrs --xattrs-include='*' --acls --sparse --sort=name"

// CaptureRootfs writes a tar of the machine's local filesystems. Files that change while they are
// read are taken as they were read.
func (h *Host) CaptureRootfs(ctx context.Context, exclude []string, w io.Writer) error {
	mounts, err := h.localMounts(ctx, exclude)
	if err != nil {
		return err
	}
	var script strings.Builder
	// Exit code 1 of tar says that a file changed as it was read.
	fmt.Fprintf(&script, "cd / && tar --create %s --one-file-system --anchored --wildcards --wildcards-match-slash", tarFlags)
	for _, name := range exclude {
		// The folder itself stays, so that mount points are there after a restore.
		fmt.Fprintf(&script, " --exclude=%s", Quote("."+name+"/*"))
	}
	script.WriteString(" --file=- .")
	for _, mount := range mounts {
		script.WriteString(" " + Quote("."+mount))
	}
	script.WriteString("; code=$?; [ $code -le 1 ] || exit $code")
	return h.Run(ctx, Command{Script: script.String(), Stdout: w})
}

// localMounts are the mount points below / with a filesystem of a local disk, which
// --one-file-system would leave out.
func (h *Host) localMounts(ctx context.Context, exclude []string) ([]string, error) {
	out, err := h.Output(ctx, "cat /proc/self/mounts")
	if err != nil {
		return nil, err
	}
	local := []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "overlay"}
	var mounts []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !slices.Contains(local, fields[2]) || fields[1] == "/" || slices.Contains(mounts, fields[1]) {
			continue
		}
		if !within(fields[1], exclude) {
			mounts = append(mounts, fields[1])
		}
	}
	return mounts, nil
}

func within(name string, folders []string) bool {
	for _, folder := range folders {
		if name == folder || strings.HasPrefix(name, folder+"/") {
			return true
		}
	}
	return false
}

// RestoreRootfs unpacks a tar over the running machine's root. Files are replaced, never written
// into, so that running programs go on with what they have open. What keep names is left alone. The
// stream is checked on its way: a path or link that leads out is fault.Corrupt, and what came before
// it stands on the machine, which must not be started then.
func (h *Host) RestoreRootfs(ctx context.Context, keep []string, r io.Reader) error {
	var script strings.Builder
	// Without --absolute-names tar puts an empty file in the place of every link with an absolute target
	// until it ends, the dynamic loader's among them: nothing could be started on the machine meanwhile,
	// and nothing ever again if it died then. What the option lets through otherwise is refused here.
	script.WriteString("cd / && tar --extract --file=- --absolute-names --numeric-owner --xattrs --xattrs-include='*' --acls --same-permissions --same-owner --keep-directory-symlink --warning=no-timestamp --anchored")
	for _, name := range slices.Concat(keep, []string{"/proc", "/sys", "/dev", "/run"}) {
		fmt.Fprintf(&script, " --exclude=%s", Quote("."+name))
	}
	reading, writing := io.Pipe()
	result := make(chan error, 1)
	buffered, stop := ahead(r)
	defer stop()
	go func() {
		// Tee: tar on the machine reads the very bytes that were checked here. The last byte of a header
		// leaves the buffer after the header was checked.
		out := bufio.NewWriterSize(writing, restoreBuffer)
		err := checkArchive(io.TeeReader(bufio.NewReaderSize(buffered, restoreBuffer), out))
		if err == nil {
			err = out.Flush()
		}
		_ = writing.CloseWithError(err) // nil closes it
		result <- err
	}()
	err := h.Run(ctx, Command{Script: script.String(), Stdin: reading})
	_ = reading.Close() // the checker may still write
	if checked := <-result; checked != nil && !errors.Is(checked, io.ErrClosedPipe) {
		return checked
	}
	return err
}

// restoreBuffer gathers what tar's reader asks for in blocks of 512 bytes: each of them would be a packet
// of SSH otherwise.
const restoreBuffer = 256 << 10

// checkArchive reads a tar to its end and refuses names that lead out of the root, and files that
// would be written through a symbolic link of the same archive.
func checkArchive(r io.Reader) error {
	archive := tar.NewReader(r)
	links := map[string]bool{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // padding after the end
			return err
		}
		var known *fault.Error
		if errors.As(err, &known) {
			return err
		}
		if errors.Is(err, io.ErrClosedPipe) {
			return err
		}
		if err != nil {
			return fault.New("read archive", fault.Corrupt, "rootfs.tar", err)
		}
		name := path.Clean("/" + header.Name)
		if strings.HasPrefix(header.Name, "/") || slices.Contains(strings.Split(header.Name, "/"), "..") {
			return fault.Newf("read archive", fault.Corrupt, header.Name, "the name leads out of the root")
		}
		for parent := path.Dir(name); parent != "/"; parent = path.Dir(parent) {
			if links[parent] {
				return fault.Newf("read archive", fault.Corrupt, header.Name, "it would be written through the link %s", parent)
			}
		}
		if header.Typeflag == tar.TypeLink && slices.Contains(strings.Split(header.Linkname, "/"), "..") {
			return fault.Newf("read archive", fault.Corrupt, header.Name, "it is a hard link to %s", header.Linkname)
		}
		if header.Typeflag == tar.TypeSymlink {
			links[name] = true
		}
	}
}
