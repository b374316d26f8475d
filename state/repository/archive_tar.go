package repository

import (
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const tarBlock = 512

// The types of a tar's entries (POSIX.1-2017, pax).
const (
	tarRegular = '0'
	tarLink    = '1'
	tarSymlink = '2'
	tarChar    = '3'
	tarBlocks  = '4'
	tarFolder  = '5'
	tarFIFO    = '6'
	tarPAX     = 'x'
)

// tarHeader is one entry's header. archive/tar does not write sparse files.
type tarHeader struct {
	path   string // a folder's ends with '/'
	kind   byte
	mode   uint32 // permissions with setuid, setgid and sticky
	uid    uint32
	gid    uint32
	size   int64 // of what follows, without padding
	mtime  unix.Timespec
	target string // of links
	rdev   uint64
	xattrs map[string]string
	sparse int64 // the real size of a sparse file, else -1
}

const xattrRecord = "SCHILY.xattr."

// xattr names have '=' and '%' encoded, as GNU tar does it.
func encodeXattr(name string) string {
	return xattrRecord + strings.NewReplacer("%", "%25", "=", "%3D").Replace(name)
}

func decodeXattr(record string) (string, bool) {
	name, ok := strings.CutPrefix(record, xattrRecord)
	return strings.NewReplacer("%3D", "=", "%25", "%").Replace(name), ok
}

// encode renders the header: pax records where the classic fields don't do, then the classic header.
func (h tarHeader) encode() []byte {
	records := map[string]string{}
	if h.mtime.Nsec != 0 || h.mtime.Sec < 0 || h.mtime.Sec >= 1<<33 {
		records["mtime"] = paxTime(time.Unix(h.mtime.Unix()))
	}
	if !fits(h.path, 100) {
		records["path"] = h.path
	}
	if !fits(h.target, 100) {
		records["linkpath"] = h.target
	}
	if h.size >= 1<<33 {
		records["size"] = strconv.FormatInt(h.size, 10)
	}
	if h.uid >= 1<<21 {
		records["uid"] = strconv.FormatUint(uint64(h.uid), 10)
	}
	if h.gid >= 1<<21 {
		records["gid"] = strconv.FormatUint(uint64(h.gid), 10)
	}
	for name, value := range h.xattrs {
		records[encodeXattr(name)] = value
	}
	name := h.path
	if h.sparse >= 0 {
		records["GNU.sparse.major"], records["GNU.sparse.minor"] = "1", "0"
		records["GNU.sparse.name"], records["GNU.sparse.realsize"] = h.path, strconv.FormatInt(h.sparse, 10)
		delete(records, "path")
		name = "GNUSparseFile.0/" + h.path[strings.LastIndexByte(h.path, '/')+1:]
	}
	var out []byte
	if len(records) > 0 {
		body := encodeRecords(records)
		out = append(out, tarHeader{path: "PaxHeaders/" + h.path, kind: tarPAX, mode: 0o644, size: int64(len(body))}.block("PaxHeaders/entry")...)
		out = append(out, body...)
		out = append(out, make([]byte, padding(int64(len(body))))...)
	}
	return append(out, h.block(name)...)
}

// fits tells what a classic field of plain ASCII holds.
func fits(s string, size int) bool {
	if len(s) > size {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// padding is what follows n bytes up to a whole block.
func padding(n int64) int64 { return -n & (tarBlock - 1) }

func paxTime(t time.Time) string {
	sec, nsec := t.Unix(), t.Nanosecond()
	sign := ""
	if sec < 0 && nsec > 0 { // -1.3 s is second -2 and 0.7
		sec, nsec = sec+1, 1e9-nsec
		if sec == 0 {
			sign = "-"
		}
	}
	out := sign + strconv.FormatInt(sec, 10)
	if nsec > 0 {
		fraction := strconv.Itoa(nsec)
		out += "." + strings.Repeat("0", 9-len(fraction)) + fraction
	}
	return out
}

// encodeRecords renders records as "<length> <key>=<value>\n"; the length counts itself.
func encodeRecords(records map[string]string) []byte {
	keys := make([]string, 0, len(records))
	for key := range records {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var out []byte
	for _, key := range keys {
		rest := " " + key + "=" + records[key] + "\n"
		length := len(rest)
		for length != len(rest)+len(strconv.Itoa(length)) {
			length = len(rest) + len(strconv.Itoa(length))
		}
		out = append(strconv.AppendInt(out, int64(length), 10), rest...)
	}
	return out
}

// block is the classic header of 512 bytes. What does not fit stands in pax records.
func (h tarHeader) block(name string) []byte {
	b := make([]byte, tarBlock)
	copy(b[:100], name)
	octal(b[100:108], uint64(h.mode))
	octal(b[108:116], uint64(h.uid))
	octal(b[116:124], uint64(h.gid))
	octal(b[124:136], uint64(h.size))
	octal(b[136:148], uint64(max(h.mtime.Sec, 0)))
	b[156] = h.kind
	copy(b[157:257], h.target)
	copy(b[257:265], "ustar\x0000")
	if h.kind == tarChar || h.kind == tarBlocks {
		octal(b[329:337], uint64(unix.Major(h.rdev)))
		octal(b[337:345], uint64(unix.Minor(h.rdev)))
	}
	copy(b[148:156], "        ")
	sum := uint64(0)
	for _, c := range b {
		sum += uint64(c)
	}
	octal(b[148:155], sum)
	return b
}

// octal fills a field with digits and a NUL; a number that is too large is left at its low digits.
func octal(field []byte, n uint64) {
	digits := len(field) - 1
	n &= 1<<(3*digits) - 1
	s := strconv.FormatUint(n, 8)
	copy(field, strings.Repeat("0", digits-len(s))+s)
}
