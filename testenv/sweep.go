package testenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// labLink is a bridge of a lab, or the host's end of a machine's link.
var labLink = regexp.MustCompile(`^(mlab\d+|ml\d+-\d+)$`)

// sweep removes what is called like a lab's when there is no lab: what is left when a lab's files were
// deleted by hand.
func sweep(ctx context.Context) error {
	machines, err := lostMachines()
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range machines {
		problems = append(problems, killAll(ctx, name), removeNamespace(ctx, name), removeCgroup(name))
	}
	links, err := os.ReadDir("/sys/class/net")
	problems = append(problems, err)
	for _, link := range links {
		if labLink.MatchString(link.Name()) {
			problems = append(problems, deleteLink(ctx, link.Name()))
		}
	}
	return errors.Join(append(problems, detachLost(ctx), removeCgroup(""))...)
}

// lostMachines are the names of network namespaces and cgroups.
func lostMachines() ([]string, error) {
	namespaces, err := filepath.Glob("/run/netns/" + netns("*"))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var names []string
	add := func(name string) {
		if !seen[name] {
			names, seen[name] = append(names, name), true
		}
	}
	for _, path := range namespaces {
		add(strings.TrimPrefix(filepath.Base(path), netns("")))
	}
	for _, controller := range controllers() {
		entries, _ := os.ReadDir(filepath.Join(cgroupRoot, controller, cgroupOf(""))) // none is fine
		for _, entry := range entries {
			if entry.IsDir() {
				add(entry.Name())
			}
		}
	}
	return names, nil
}

// detachLost frees the loop devices over disks of machines, deleted files too.
func detachLost(ctx context.Context) error {
	out, err := command(ctx, nil, "losetup", "--noheadings", "--raw", "--output", "NAME,BACK-FILE")
	if err != nil {
		return err
	}
	var problems []error
	for line := range strings.Lines(out) {
		device, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(file, StateDir()+"/") {
			problems = append(problems, run(ctx, [][]string{{"losetup", "--detach", device}}))
		}
	}
	return errors.Join(problems...)
}
