package machine

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// DeviceInfo is what stands on a block device.
type DeviceInfo struct {
	Bytes      int64
	Filesystem string // empty when there is none
	Mountpoint string // empty when it is not mounted
}

// DeviceInfo looks at a block device; fault.NotFound when there is none at the path.
func (h *Host) DeviceInfo(ctx context.Context, device string) (DeviceInfo, error) {
	quoted := Quote(device)
	out, err := h.Output(ctx, fmt.Sprintf(`
[ -b %[1]s ] || exit 0
echo "size $(blockdev --getsize64 %[1]s)"
echo "filesystem $(blkid -p -o value -s TYPE %[1]s)"
numbers=$(stat -c '%%Hr:%%Lr' %[1]s)
echo "mountpoint $(awk -v n="$numbers" '$3 == n {print $5; exit}' /proc/self/mountinfo)"`, quoted))
	if err != nil {
		return DeviceInfo{}, err
	}
	var info DeviceInfo
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "size":
			info.Bytes, err = strconv.ParseInt(value, 10, 64)
		case "filesystem":
			info.Filesystem = value
		case "mountpoint":
			info.Mountpoint = value
		}
	}
	if err != nil || info.Bytes == 0 {
		return DeviceInfo{}, fault.Newf("look at device", fault.NotFound, h.machine.Name+":"+device, "it is no block device there")
	}
	return info, nil
}

// freezeLimit bounds how long a filesystem stays frozen, whatever becomes of Muster.
const freezeLimit = 600

// CaptureDevice writes the device's bytes. A mounted filesystem is frozen while it is read; a
// process on the machine that outlives the connection lifts the freeze after ten minutes at the
// latest.
func (h *Host) CaptureDevice(ctx context.Context, device string, info DeviceInfo, w io.Writer) error {
	if info.Mountpoint == "" {
		return h.Run(ctx, Command{Script: "exec dd if=" + Quote(device) + " bs=1M status=none", Stdout: w})
	}
	script := fmt.Sprintf(`
thaw() { fsfreeze --unfreeze %[1]s 2>/dev/null; }
setsid sh -c 'sleep %[3]d; fsfreeze --unfreeze "$0" 2>/dev/null' %[1]s </dev/null >/dev/null 2>&1 &
watchdog=$!
trap 'thaw; kill -- -$watchdog 2>/dev/null' EXIT
trap 'exit 1' HUP INT TERM PIPE
fsfreeze --freeze %[1]s || exit 1
dd if=%[2]s bs=1M status=none`, Quote(info.Mountpoint), Quote(device), freezeLimit)
	return h.Run(ctx, Command{Script: script, Stdout: w})
}

// RestoreDevice writes an image onto a device that is not mounted and large enough. Zeros are not
// written where the device could be discarded first.
func (h *Host) RestoreDevice(ctx context.Context, device string, size int64, r io.Reader) error {
	info, err := h.DeviceInfo(ctx, device)
	if err != nil {
		return err
	}
	subject := h.machine.Name + ":" + device
	if info.Mountpoint != "" {
		return fault.Newf("restore device", fault.Exists, subject, "it is mounted at %s: unmount it first", info.Mountpoint)
	}
	if info.Bytes < size {
		return fault.Newf("restore device", fault.NoSpace, subject, "it has %d bytes and the image %d", info.Bytes, size)
	}
	script := fmt.Sprintf("sparse=; blkdiscard --zeroout %[1]s 2>/dev/null && sparse=,sparse; exec dd of=%[1]s bs=1M iflag=fullblock conv=notrunc,fsync$sparse status=none", Quote(device))
	return h.Run(ctx, Command{Script: script, Stdin: r})
}
