package ebsdirect

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Server answers the EBS direct APIs of all regions.
type Server struct {
	*Content
	// Now is its clock.
	Now func() time.Time
	// Register makes a started snapshot known to EC2 and returns its ID and owner.
	Register func(r *http.Request, start Start) (id, owner string, err error)
	// Region is the one that a request is for.
	Region func(r *http.Request) string
	// PageSize is the most that a page holds, whatever MaxResults says; 0: no such limit.
	PageSize int
	// EmptyPages puts an empty page before each page that holds something: the reference allows it.
	EmptyPages bool
}

// Operation is the name of what a request asks for, "" when there is none.
func Operation(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 1 && r.Method == http.MethodPost:
		return "StartSnapshot"
	case len(parts) == 3 && parts[1] == "completion":
		return "CompleteSnapshot"
	case len(parts) == 3 && parts[2] == "changedblocks":
		return "ListChangedBlocks"
	case len(parts) == 3 && parts[2] == "blocks":
		return "ListSnapshotBlocks"
	case len(parts) == 4 && r.Method == http.MethodPut:
		return "PutSnapshotBlock"
	case len(parts) == 4:
		return "GetSnapshotBlock"
	}
	return ""
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var err error
	switch Operation(r) {
	case "StartSnapshot":
		err = s.start(w, r)
	case "CompleteSnapshot":
		err = s.complete(w, r, parts[2])
	case "ListChangedBlocks":
		err = s.listChanged(w, r, parts[1])
	case "ListSnapshotBlocks":
		err = s.list(w, r, parts[1])
	case "PutSnapshotBlock":
		err = s.put(w, r, parts[1], parts[3])
	case "GetSnapshotBlock":
		err = s.get(w, r, parts[1], parts[3])
	default:
		err = &Error{http.StatusNotFound, "UnknownOperationException", "no such operation", ""}
	}
	if err == nil {
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{http.StatusInternalServerError, "InternalServerException", err.Error(), ""}
	}
	e.Write(w)
}

func (s *Server) start(w http.ResponseWriter, r *http.Request) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var request startRequest
	if err := json.Unmarshal(raw, &request); err != nil {
		return invalid("INVALID_PARAMETER_VALUE", err.Error())
	}
	if request.VolumeSize < 1 || request.VolumeSize > 65536 {
		return invalid("INVALID_VOLUME_SIZE", "The volume size is out of range.")
	}
	if request.Encrypted != nil && request.ParentSnapshotID != "" {
		return invalid("INVALID_PARAMETER_VALUE", "Encrypted and ParentSnapshotId exclude each other.")
	}
	if request.KmsKeyArn != "" && !strings.HasPrefix(request.KmsKeyArn, "arn:") {
		return invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn is no ARN.")
	}
	region := s.Region(r)
	if done, err := s.started(w, region, request, string(raw)); done || err != nil {
		return err
	}
	id, owner, err := s.Register(r, Start{
		GiB: request.VolumeSize, Description: request.Description, KMSKey: request.KmsKeyArn, Tags: request.Tags,
		Encrypted: request.Encrypted != nil && *request.Encrypted,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	created := &snapshot{blocks: blocks{}, lineage: id, region: region, gib: request.VolumeSize, state: Pending, started: s.Now(), request: string(raw)}
	s.snapshots[id] = created
	s.tokens[region+"/"+request.ClientToken] = id
	answer(w, http.StatusCreated, created.response(id, owner, request))
	return nil
}

// started answers a request that was made before.
func (s *Server) started(w http.ResponseWriter, region string, request startRequest, raw string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.tokens[region+"/"+request.ClientToken]
	if !ok || request.ClientToken == "" {
		return false, nil
	}
	made, ok := s.snapshots[id]
	if !ok {
		return false, nil
	}
	if made.request != raw {
		return false, &Error{http.StatusConflict, "ConflictException", "The request uses the same client token as a previous, but non-identical request.", ""}
	}
	answer(w, http.StatusCreated, made.response(id, "", request))
	return true, nil
}

func (s *snapshot) response(id, owner string, request startRequest) startResponse {
	return startResponse{
		SnapshotID: id, OwnerID: owner, Status: s.state, StartTime: epoch(s.started), VolumeSize: s.gib, BlockSize: BlockSize,
		Tags: request.Tags, Description: request.Description, KmsKeyArn: request.KmsKeyArn,
	}
}

func epoch(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// find looks a snapshot up; the caller holds the lock.
func (s *Server) find(r *http.Request, id string) (*snapshot, error) {
	if !strings.HasPrefix(id, "snap-") {
		return nil, invalid("INVALID_SNAPSHOT_ID", "The snapshot ID is malformed.")
	}
	found, ok := s.snapshots[id]
	if !ok || found.region != s.Region(r) {
		return nil, notFound(id)
	}
	return found, nil
}

// readable is find for those that are completed: AWS does not know the others here.
func (s *Server) readable(r *http.Request, id string) (*snapshot, error) {
	found, err := s.find(r, id)
	if err != nil {
		return nil, err
	}
	if found.state != Completed {
		return nil, notFound(id)
	}
	return found, nil
}

func (s *Server) put(w http.ResponseWriter, r *http.Request, id, index string) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, BlockSize+1))
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(index, 10, 32)
	if err != nil {
		return invalid("INVALID_BLOCK", "The block index is no number.")
	}
	if len(data) != BlockSize || r.Header.Get("X-Amz-Data-Length") != strconv.Itoa(BlockSize) {
		return invalid("INVALID_BLOCK", "The data length must be 524288.")
	}
	sum := sha256.Sum256(data)
	if r.Header.Get("X-Amz-Checksum-Algorithm") != "SHA256" || r.Header.Get("X-Amz-Checksum") != base64.StdEncoding.EncodeToString(sum[:]) {
		return invalid("INVALID_PARAMETER_VALUE", "The checksum does not match the data.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(r, id)
	if err != nil {
		return err
	}
	if found.state != Pending || found.request == "" {
		return invalid("INVALID_SNAPSHOT_ID", "The snapshot is not in the pending state.")
	}
	if number < 0 || number*BlockSize >= found.gib<<30 {
		return invalid("INVALID_BLOCK", "The block index is out of range.")
	}
	found.blocks[int32(number)], found.modified = data, true
	w.Header().Set("X-Amz-Checksum", r.Header.Get("X-Amz-Checksum"))
	w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
	answer(w, http.StatusCreated, struct{}{})
	return nil
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(r, id)
	if err != nil {
		return err
	}
	if found.state == Failed {
		return invalid("INVALID_SNAPSHOT_ID", "The snapshot is in the error state.")
	}
	if r.Header.Get("X-Amz-Changedblockscount") != strconv.Itoa(len(found.blocks)) {
		return invalid("INVALID_PARAMETER_VALUE", fmt.Sprintf("The snapshot has %d changed blocks.", len(found.blocks)))
	}
	if sum := r.Header.Get("X-Amz-Checksum"); sum != "" && sum != found.checksum() {
		return invalid("INVALID_PARAMETER_VALUE", "The aggregated checksum does not match.")
	}
	found.state, found.polls = Completed, s.settle
	answer(w, http.StatusAccepted, map[string]State{"Status": Pending})
	return nil
}

// checksum is the aggregated one, LINEAR: the digest of all digests, as bytes, in ascending order.
func (s *snapshot) checksum() string {
	indexes := make([]int32, 0, len(s.blocks))
	for index := range s.blocks {
		indexes = append(indexes, index)
	}
	slices.Sort(indexes)
	whole := sha256.New()
	for _, index := range indexes {
		sum := sha256.Sum256(s.blocks[index])
		whole.Write(sum[:])
	}
	return base64.StdEncoding.EncodeToString(whole.Sum(nil))
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, id, index string) error {
	s.mu.Lock()
	found, err := s.readable(r, id)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	number, err := strconv.ParseInt(index, 10, 32)
	if err != nil || r.URL.Query().Get("blockToken") != s.token(id, int32(number)) {
		s.mu.Unlock()
		return invalid("INVALID_BLOCK_TOKEN", "The block token is invalid or has expired.")
	}
	data := found.blocks[int32(number)]
	s.mu.Unlock()
	sum := sha256.Sum256(data)
	w.Header().Set("X-Amz-Data-Length", strconv.Itoa(len(data)))
	w.Header().Set("X-Amz-Checksum", base64.StdEncoding.EncodeToString(sum[:]))
	w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(data) // a client that is gone
	return nil
}

// token is a block's token of this epoch; the caller holds the lock.
func (s *Server) token(id string, index int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", id, index, s.epoch))
	return base64.StdEncoding.EncodeToString(sum[:])
}
