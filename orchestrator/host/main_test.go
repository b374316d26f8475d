package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/providers/rpc"
)

// TestMain is also the programs of the providers that the tests start: copies of this test under the names
// of providers.
func TestMain(m *testing.M) {
	name, isPlugin := strings.CutPrefix(filepath.Base(os.Args[0]), Prefix)
	if !isPlugin {
		goleak.VerifyTestMain(m)
		return
	}
	os.Exit(runProgram(name))
}

func runProgram(name string) int {
	switch name {
	case "exits":
		fmt.Fprintln(os.Stderr, "libbackend.so.1: cannot open shared object file")
		return 3
	case "babbles":
		fmt.Println("hello")
		return 0
	case "v1":
		return rpc.ServeProtocols(&odd{name: name}, rpc.Range{Oldest: 1, Newest: 1})
	case "v1to3":
		return rpc.ServeProtocols(&odd{name: name}, rpc.Range{Oldest: 1, Newest: 3})
	case "v4to5":
		return rpc.ServeProtocols(&odd{name: name}, rpc.Range{Oldest: 4, Newest: 5})
	case "odd":
		return rpc.Serve(&odd{name: name})
	case "alias":
		return rpc.Serve(&odd{name: "somebody-else"})
	default:
		return rpc.Serve(mem.New(mem.Config{Now: time.Now}))
	}
}

// odd is a provider that does odd things when asked for volumes whose ID says what.
type odd struct {
	providers.Unsupported
	name string
}

func (o *odd) Info(context.Context) (providers.Info, error) {
	return providers.Info{
		Name: o.name, Version: "7", Capabilities: []providers.Capability{providers.CapDiscover},
		Schema: json.RawMessage(`{"type": "object", "properties": {
			"pool": {"type": "string", "pattern": "^[a-z]+$"}, "size": {"type": "integer", "minimum": 1},
			"nested": {"type": "object", "required": ["name"], "additionalProperties": false, "properties": {"name": {"enum": ["a", "b"]}}}
		}, "additionalProperties": false}`),
	}, nil
}

func (o *odd) Configure(context.Context, json.RawMessage) error { return nil }
func (o *odd) Close() error                                     { return nil }

// Health tells what the process sees of the world.
func (o *odd) Health(context.Context) (providers.Health, error) {
	var core, data syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &core)
	_ = syscall.Getrlimit(syscall.RLIMIT_DATA, &data)
	folder, _ := os.Getwd()
	return providers.Health{
		Usable: true, Problems: os.Environ(), Free: int64(core.Max), Total: int64(data.Max >> 1),
		Fingerprint: strconv.Itoa(os.Getpid()), Version: folder,
	}, nil
}

func (o *odd) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	switch query.Machine {
	case "flood":
		var all [][]byte
		for {
			piece := make([]byte, 16<<20)
			for i := 0; i < len(piece); i += 4096 {
				piece[i] = 1
			}
			all = append(all, piece)
			providers.Report(ctx, providers.Progress{Done: int64(len(all))})
		}
	case "child":
		child := exec.Command("sleep", "1000")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return err
		}
		id := strconv.Itoa(child.Process.Pid)
		return each(providers.Volume{Handle: providers.Handle{Provider: o.name, State: []byte(id)}, ID: id, Content: "blocks", Machine: "child"})
	case "stop":
		return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "leak":
		return fmt.Errorf("login with %s was refused", os.Getenv("ODD_TOKEN"))
	case "log":
		rpc.Log().Warn("connecting with "+os.Getenv("ODD_TOKEN"), "token", os.Getenv("ODD_TOKEN"))
		fmt.Fprintln(os.Stderr, "plain line with "+os.Getenv("ODD_TOKEN"))
		fmt.Fprintln(os.Stderr, strings.Repeat("long", 10000))
		fmt.Println("printed line")
	case "panic":
		go panic("on purpose")
		<-ctx.Done()
	}
	return nil
}
