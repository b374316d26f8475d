package testenv

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// NodePlugin is the node service of a CSI driver on a machine, for drivers whose own needs kernel modules
// that are not to be had here.
type NodePlugin struct {
	Driver string // "rbd.csi.ceph.com"
	// Script is called with publish or unpublish, the volume's handle and the target folder. The volume's
	// attributes are in its environment as ATTR_<name>.
	Script string
	Files  map[string]string // that the script needs, by path
}

// StartNodePlugin starts the plugin on a machine. It ends with the machine, and registers with kubelet as
// soon as there is one.
func (l *Lab) StartNodePlugin(ctx context.Context, machine string, plugin NodePlugin) error {
	dir, err := csiBuilt(ctx, l.say)
	if err != nil {
		return err
	}
	if err := l.send(ctx, machine, filepath.Join(dir, "node"), "/usr/local/bin/csi-node"); err != nil {
		return err
	}
	script := "/usr/local/bin/" + plugin.Driver
	files := map[string]string{script: plugin.Script}
	for path, content := range plugin.Files {
		files[path] = content
	}
	for path, content := range files {
		if _, err := l.Exec(ctx, machine, fmt.Sprintf("mkdir -p %[2]s; umask 077; cat >%[1]s; chmod 700 %[1]s", path, filepath.Dir(path)), strings.NewReader(content)); err != nil {
			return err
		}
	}
	_, err = l.Exec(ctx, machine, fmt.Sprintf("setsid /usr/local/bin/csi-node --driver %s --node %s --script %s >/var/log/%[1]s.log 2>&1 </dev/null &", plugin.Driver, machine, script), nil)
	return err
}
