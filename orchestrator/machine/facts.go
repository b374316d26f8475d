package machine

import (
	"context"
	"strconv"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// Facts are what a machine tells of itself.
type Facts struct {
	Hostname  string
	OS        string // PRETTY_NAME of os-release(5)
	Arch      string // uname -m
	Kernel    string // uname -r
	FreeBytes int64  // on the root filesystem
	UnixTime  int64  // its clock
	Missing   []string
	Kubelet   bool // is installed
	// NotBlank lists what stands there that a rebuild would destroy.
	NotBlank []string
	Marker   string // the run that restores it, empty when none does
}

// tools are what capture and restore run on a machine.
const tools = "tar dd sync blkid blockdev fsfreeze systemctl containerd"

// Facts looks at the machine and changes nothing.
func (h *Host) Facts(ctx context.Context) (Facts, error) {
	out, err := h.Output(ctx, `
echo "hostname $(hostname)"
echo "os $(. /etc/os-release; echo "$PRETTY_NAME")"
echo "arch $(uname -m)"
echo "kernel $(uname -r)"
echo "free $(df -P -B1 / | awk 'NR == 2 {print $4}')"
echo "time $(date +%s)"
echo "user $(id -u)"
for tool in `+tools+`; do command -v "$tool" >/dev/null || echo "missing $tool"; done
! command -v kubelet >/dev/null || echo "kubelet yes"
for path in /etc/kubernetes /var/lib/etcd /var/lib/kubelet; do
	[ -z "$(find "$path" -mindepth 1 -type f -print -quit 2>/dev/null)" ] || echo "notblank $path"
done
[ ! -r `+MarkerPath+` ] || echo "marker $(cat `+MarkerPath+`)"
`)
	if err != nil {
		return Facts{}, err
	}
	var facts Facts
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := facts.set(key, value); err != nil {
			return Facts{}, fault.New("look at machine", fault.Invalid, h.machine.Name, err)
		}
	}
	if facts.Arch == "" {
		return Facts{}, fault.Newf("look at machine", fault.Invalid, h.machine.Name, "it does not answer as a Linux machine does")
	}
	return facts, nil
}

func (f *Facts) set(key, value string) (err error) {
	switch key {
	case "hostname":
		f.Hostname = value
	case "os":
		f.OS = value
	case "arch":
		f.Arch = value
	case "kernel":
		f.Kernel = value
	case "free":
		f.FreeBytes, err = strconv.ParseInt(value, 10, 64)
	case "time":
		f.UnixTime, err = strconv.ParseInt(value, 10, 64)
	case "user":
		if value != "0" {
			f.Missing = append(f.Missing, "root (set sudo: true, or log in as root)")
		}
	case "kubelet":
		f.Kubelet = true
	case "missing":
		f.Missing = append(f.Missing, value)
	case "notblank":
		f.NotBlank = append(f.NotBlank, value)
	case "marker":
		f.Marker = value
	}
	return err
}
