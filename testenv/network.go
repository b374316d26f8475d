package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func (l *Lab) bridge() string { return fmt.Sprintf("mlab%d", l.State.Number) }

// Gateway is this machine's address on the lab's bridge.
func (l *Lab) Gateway() string { return fmt.Sprintf("10.86.%d.1", l.State.Number) }

// netns and veth are derived, so that a crash between making and recording them loses nothing.
func netns(machine string) string { return "mlab-" + machine }

func (l *Lab) veth(address string) string {
	return fmt.Sprintf("ml%d-%s", l.State.Number, address[strings.LastIndex(address, ".")+1:])
}

func (l *Lab) makeBridge(ctx context.Context) error {
	if err := l.removeBridge(ctx); err != nil { // of a lab whose files are lost
		return err
	}
	return run(ctx, [][]string{
		{"ip", "link", "add", l.bridge(), "type", "bridge"},
		{"ip", "address", "add", l.Gateway() + "/24", "dev", l.bridge()},
		{"ip", "link", "set", l.bridge(), "up"},
	})
}

func (l *Lab) removeBridge(ctx context.Context) error {
	return deleteLink(ctx, l.bridge())
}

// deleteLink deletes a link that may go by itself meanwhile, with the namespace of its other end.
func deleteLink(ctx context.Context, name string) error {
	path := filepath.Join("/sys/class/net", name)
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	err := run(ctx, [][]string{{"ip", "link", "delete", name}})
	if _, gone := os.Stat(path); gone != nil {
		return nil
	}
	return err
}

// connect makes the machine's network namespace with eth0 on the lab's bridge.
func (l *Lab) connect(ctx context.Context, name, address string) error {
	// A machine of this name whose lab's files are lost may still run.
	if err := errors.Join(killAll(ctx, name), l.disconnect(ctx, name, address)); err != nil {
		return err
	}
	ns, veth := netns(name), l.veth(address)
	return run(ctx, [][]string{
		{"ip", "netns", "add", ns},
		{"ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", ns},
		{"ip", "link", "set", veth, "master", l.bridge(), "up"},
		{"ip", "-n", ns, "address", "add", address + "/24", "dev", "eth0"},
		{"ip", "-n", ns, "link", "set", "eth0", "up"},
		{"ip", "-n", ns, "link", "set", "lo", "up"},
		{"ip", "-n", ns, "route", "add", "default", "via", l.Gateway()},
	})
}

// disconnect removes the namespace; the veth pair goes with it, unless nothing but the host's end
// was made.
func (l *Lab) disconnect(ctx context.Context, name, address string) error {
	if address != "" {
		if err := deleteLink(ctx, l.veth(address)); err != nil {
			return err
		}
	}
	return removeNamespace(ctx, name)
}

func removeNamespace(ctx context.Context, name string) error {
	if _, err := os.Stat(filepath.Join("/run/netns", netns(name))); err != nil {
		return nil
	}
	return run(ctx, [][]string{{"ip", "netns", "delete", netns(name)}})
}

func run(ctx context.Context, commands [][]string) error {
	for _, args := range commands {
		if _, err := command(ctx, nil, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// freeAddress is the machine's earlier address, else the first that nobody has had.
func (l *Lab) freeAddress(name string) string {
	if address, ok := l.State.Addresses[name]; ok {
		return address
	}
	taken := map[string]bool{}
	for _, address := range l.State.Addresses {
		taken[address] = true
	}
	for host := 10; ; host++ {
		if address := fmt.Sprintf("10.86.%d.%d", l.State.Number, host); !taken[address] {
			return address
		}
	}
}

// Namespace is the name of a machine's network namespace, as ip-netns(8) knows it.
func (l *Lab) Namespace(machine string) string { return netns(machine) }
