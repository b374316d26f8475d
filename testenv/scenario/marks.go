package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/musterdr/muster/testenv"
)

// markScript writes files with everything that a filesystem can hold.
const markScript = `
rm -rf /opt/marker; mkdir -p "/opt/marker/with space" && cd /opt/marker
echo "only on $(hostname)" >plain; chown 1234:4321 plain; chmod 640 plain
ln plain hard; ln -s plain soft; ln -s /nowhere dangling
echo text >attributed; setfattr -n user.muster -v kept attributed
cp /bin/true capable; setcap cap_net_bind_service=+ep capable
cp /bin/true setuid; chmod 4755 setuid
truncate -s 8M sparse; printf end | dd of=sparse bs=1 seek=8388000 conv=notrunc 2>/dev/null
echo acl >listed; setfacl -m u:1234:r listed
mknod device c 1 3; mkfifo pipe; : >"with space/empty"
touch -d '2001-02-03 04:05:06.789 UTC' plain; touch -h -d '2002-02-03 04:05:06 UTC' soft`

// markDigest prints one digest over names, types, modes, owners, links, times, content, extended
// attributes, capabilities, ACLs and the blocks of the sparse file.
const markDigest = `
cd %s
{
	find . -mindepth 1 ! -name lost+found -printf '%%p %%y %%m %%U %%G %%n %%l %%T@\n' | grep -v ' d ' | sort
	find . -mindepth 1 ! -name lost+found -type d -printf '%%p %%m %%U %%G\n' | sort
	find . -type f -print0 | sort -z | xargs -0 sha256sum
	find . ! -type l -print0 | sort -z | xargs -0 getfattr -d -m - --absolute-names 2>/dev/null | grep -v '^security.selinux'
	find . -type f -print0 | sort -z | xargs -0 getcap
	[ ! -e sparse ] || [ "$(stat -c %%b sparse)" -lt 1000 ] || echo 'sparse file grew'
	[ ! -e device ] || stat -c '%%t %%T' device
} | sha256sum | cut -d' ' -f1`

func (s *Scenario) mark(ctx context.Context, machine string) (string, error) {
	if _, err := s.Lab.Exec(ctx, machine, markScript, nil); err != nil {
		return "", err
	}
	return digest(ctx, s.Lab, machine, "/opt/marker")
}

func digest(ctx context.Context, l *testenv.Lab, machine, dir string) (string, error) {
	out, err := l.Exec(ctx, machine, fmt.Sprintf(markDigest, dir), nil)
	return strings.TrimSpace(out), err
}

// fillDisk makes a filesystem with content on the attached disk.
func (s *Scenario) fillDisk(ctx context.Context) (string, error) {
	s.diskOn = s.machineWithDisk()
	if s.diskOn == "" {
		return "", nil
	}
	script := `mkfs.ext4 -q /dev/` + Disk + `; mkdir -p ` + mountedAt + `; mount /dev/` + Disk + ` ` + mountedAt + `
cd ` + mountedAt + `; for i in $(seq 200); do head -c 20000 /dev/urandom >file-$i; done; sync`
	if _, err := s.Lab.Exec(ctx, s.diskOn, script, nil); err != nil {
		return "", err
	}
	return digest(ctx, s.Lab, s.diskOn, mountedAt)
}
