package gluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

func TestRefusals(t *testing.T) {
	// What GlusterFS 10.3 says.
	for text, kind := range map[string]fault.Kind{
		"Volume does not exist":      fault.NotFound,
		"Volume nope does not exist": fault.NotFound,
		"option : no.such.thing does not exist\nDid you mean nfs.drc-size or ...rpc-statd?":                      fault.Invalid,
		`invalid number format "banana" in option "cache-size"`:                                                  fault.Invalid,
		"Another transaction is in progress for v1. Please try again after some time.":                           fault.Busy,
		"Locking failed on 10.0.0.1. Please check log file for details.":                                         fault.Busy,
		"LVM commands not found, snapshot functionality is disabled":                                             fault.Unsupported,
		"Snapshot is supported only for thin provisioned LV. Ensure that all bricks of v are thinly provisioned": fault.Unsupported,
		"Volume v1 already exists":                 fault.Exists,
		"/bricks/v1/b is already part of a volume": fault.Exists,
		"Failed to create brick directory for brick a:/b. Reason : No space left on device": fault.NoSpace,
		"Some of the peers are down":                                                                       fault.Transient,
		"Quorum not met. Volume operation not allowed.":                                                    fault.Transient,
		"Host 10.0.0.1 is not in 'Peer in Cluster' state":                                                  fault.Transient,
		"Cannot delete Volume v1 ,as it has 1 snapshots. To delete the volume, first delete all snapshots": fault.Busy,
		"something new": fault.Internal,
	} {
		if err := refusal("test", "v1", 30800, text); fault.KindOf(err) != kind {
			t.Errorf("%q is %v, want %v", text, fault.KindOf(err), kind)
		}
	}
}

const plainReply = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<cliOutput><opRet>0</opRet><opErrno>0</opErrno><opErrstr/>%s</cliOutput>`

func volume(name, id, brick string) string {
	return fmt.Sprintf(plainReply, "<volInfo><volumes><volume><name>"+name+"</name><id>"+id+"</id><bricks><brick uuid='x'>"+brick+"<name>"+brick+"</name></brick></bricks></volume></volumes></volInfo>")
}

func TestHostileReplies(t *testing.T) {
	const id = "9de70047-9ae9-4641-a0b8-2da5495645fc"
	if r, err := parseReply([]byte(volume("v1", id, "a:/b/c"))); err != nil || len(r.Volumes) != 1 || r.Volumes[0].Bricks[0].Name != "a:/b/c" {
		t.Errorf("%+v, %v", r, err)
	}
	for name, text := range map[string]string{
		"nothing":              "",
		"no document":          "gluster: command failed",
		"cut off":              strings.TrimSuffix(volume("v1", id, "a:/b"), "</cliOutput>"),
		"two documents":        volume("v1", id, "a:/b") + volume("v2", id, "a:/b"),
		"another document":     `<html><opRet>0</opRet></html>`,
		"no result":            `<cliOutput><opErrno>0</opErrno></cliOutput>`,
		"a result in words":    `<cliOutput><opRet>zero</opRet></cliOutput>`,
		"entities":             `<!DOCTYPE x [<!ENTITY e "v">]>` + volume("&e;", id, "a:/b"),
		"a name with a path":   volume("../v", id, "a:/b"),
		"a name like a flag":   volume("--xml", id, "a:/b"),
		"an ID that is none":   volume("v1", "1", "a:/b"),
		"a brick like a flag":  volume("v1", id, "-rf"),
		"a brick of two lines": volume("v1", id, "a:/b\n/c"),
	} {
		if r, err := parseReply([]byte(text)); err == nil {
			t.Errorf("%s was taken: %+v", name, r)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(volume("v1", "9de70047-9ae9-4641-a0b8-2da5495645fc", "a:/b")))
	f.Add([]byte(fmt.Sprintf(plainReply, "<peerStatus><peer><uuid>1</uuid></peer></peerStatus>")))
	f.Fuzz(func(_ *testing.T, text []byte) {
		r, err := parseReply(text)
		if err != nil {
			return
		}
		for _, v := range r.Volumes {
			v.layout()
			v.parameters()
			v.meta()
			v.rollover()
		}
	})
}

func TestRecords(t *testing.T) {
	const id = "9de70047-9ae9-4641-a0b8-2da5495645fc"
	fresh := func() records {
		return records{parents: map[string]bool{}, subjects: map[string]bool{}, contents: map[string]bool{}}
	}
	r := fresh()
	if err := r.read("test", "peer", outcome{stdout: []byte("D" + id + "\nE" + id + "\n" + id + "/\nend\n")}); err != nil || !r.contents[id] || !r.subjects[id] || !r.parents[id] {
		t.Errorf("%+v, %v", r, err)
	}
	for name, out := range map[string]outcome{
		"cut off":          {stdout: []byte("D" + id + "\n")},
		"another format":   {stdout: []byte("!/b/CHANGELOG.1\nend\n")},
		"noise":            {stdout: []byte("Dnothing\nend\n")},
		"a failed command": {stdout: []byte("end\n"), stderr: []byte("find: no such folder")},
	} {
		if err := fresh().read("test", "peer", out); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLayouts(t *testing.T) {
	s := Settings{Peers: []Peer{{Address: "a", Name: "a"}, {Address: "b", Name: "b"}}, Bricks: []string{"a:/x", "a:/y", "b:/x", "b:/y"}}
	for name, c := range map[string]struct {
		parameters map[string]string
		bricks     string // empty: refused
	}{
		"nothing said":       {nil, "a:/x b:/x"},
		"two sets":           {map[string]string{"layout": "replicate", "replica": "2", "subvolumes": "2"}, "a:/x b:/x a:/y b:/y"},
		"more sets than fit": {map[string]string{"replica": "2", "subvolumes": "7"}, "a:/x b:/x a:/y b:/y"},
		"three copies":       {map[string]string{"replica": "3"}, ""},
		"an arbiter of two":  {map[string]string{"replica": "2", "arbiter": "1"}, ""},
		"both":               {map[string]string{"replica": "2", "disperse": "3", "redundancy": "1"}, ""},
		"the wrong word":     {map[string]string{"layout": "disperse", "replica": "2"}, ""},
		"distributed":        {map[string]string{"layout": "distribute"}, "a:/x"},
		"no number":          {map[string]string{"replica": "two"}, ""},
		"what people read":   {map[string]string{"info.bricks": "z:/z", "layout": "distribute"}, "a:/x"},
		"something unknown":  {map[string]string{"color": "red"}, ""},
		"another transport":  {map[string]string{"transport": "rdma"}, ""},
	} {
		w, err := wishOf("test", s, c.parameters)
		var roots []brickRoot
		if err == nil {
			roots, err = place("test", "v", s, w.layout)
		}
		var got []string
		for _, root := range roots {
			got = append(got, root.peer.Name+":"+root.path)
		}
		if strings.Join(got, " ") != c.bricks || (c.bricks == "") != fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestInstants(t *testing.T) {
	want := time.Date(2026, 11, 28, 4, 5, 6, 0, time.UTC)
	for _, text := range []string{"2026-11-28 04:05:06", "2026-11-28 04:05:06 +0000"} {
		if got := (snapshotInfo{Created: text}).instant(); !got.Equal(want) {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestNames(t *testing.T) {
	for _, wanted := range []string{"", "pvc-1", "a/b c", "-x", strings.Repeat("ä", 400)} {
		name := nameFor(wanted, "token")
		if !volumeName.MatchString(name) || !ours.MatchString(name) || name == nameFor(wanted, "other") {
			t.Errorf("%q becomes %q", wanted, name)
		}
	}
	if ours.MatchString("vol_0123456789abcdef0123456789abcdef") {
		t.Error("heketi's names are taken for ours")
	}
}
