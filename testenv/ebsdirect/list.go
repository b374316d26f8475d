package ebsdirect

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tokenLife is how long AWS's block tokens live.
const tokenLife = 7 * 24 * time.Hour

func (s *Server) list(w http.ResponseWriter, r *http.Request, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.readable(r, id)
	if err != nil {
		return err
	}
	indexes := changed(nil, found.blocks)
	page, next, err := s.page(r, id, indexes)
	if err != nil {
		return err
	}
	response := s.response(found, next)
	for _, index := range page {
		response.Blocks = append(response.Blocks, listedBlock{index, s.token(id, index)})
	}
	answer(w, http.StatusOK, response)
	return nil
}

func (s *Server) listChanged(w http.ResponseWriter, r *http.Request, second string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := r.URL.Query().Get("firstSnapshotId")
	old, err := s.readable(r, first)
	if err != nil {
		return err
	}
	found, err := s.readable(r, second)
	if err != nil {
		return err
	}
	if old.lineage != found.lineage {
		return invalid("UNRELATED_SNAPSHOTS", "The specified snapshots are unrelated.")
	}
	page, next, err := s.page(r, first+second, changed(old.blocks, found.blocks))
	if err != nil {
		return err
	}
	response := s.response(found, next)
	for _, index := range page {
		block := changedBlock{BlockIndex: index}
		if _, ok := old.blocks[index]; ok {
			block.FirstBlockToken = s.token(first, index)
		}
		if _, ok := found.blocks[index]; ok {
			block.SecondBlockToken = s.token(second, index)
		}
		response.ChangedBlocks = append(response.ChangedBlocks, block)
	}
	answer(w, http.StatusOK, response)
	return nil
}

func (s *Server) response(found *snapshot, next string) listResponse {
	return listResponse{BlockSize: BlockSize, VolumeSize: found.gib, ExpiryTime: epoch(s.Now().Add(tokenLife)), NextToken: next}
}

// page cuts a request's page out of ascending indexes. subject binds its token to what is listed.
func (s *Server) page(r *http.Request, subject string, indexes []int32) ([]int32, string, error) {
	query := r.URL.Query()
	size, from, empty := 10000, int32(0), s.EmptyPages
	if text := query.Get("maxResults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 100 || n > 10000 {
			return nil, "", invalid("INVALID_PARAMETER_VALUE", "MaxResults must be between 100 and 10000.")
		}
		size = n
	}
	if text := query.Get("startingBlockIndex"); text != "" {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 0 {
			return nil, "", invalid("INVALID_PARAMETER_VALUE", "StartingBlockIndex is out of range.")
		}
		from = int32(n)
	}
	if text := query.Get("pageToken"); text != "" {
		var err error
		if from, empty, err = parsePage(text, subject); err != nil {
			return nil, "", err
		}
	}
	if s.PageSize > 0 {
		size = min(size, s.PageSize)
	}
	at, _ := slices.BinarySearch(indexes, from)
	rest := indexes[at:]
	if empty && len(rest) > 0 {
		return nil, pageToken(subject, rest[0], false), nil
	}
	if len(rest) <= size {
		return rest, "", nil
	}
	return rest[:size], pageToken(subject, rest[size], s.EmptyPages), nil
}

func pageToken(subject string, next int32, empty bool) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s/%d/%t", subject, next, empty))
}

func parsePage(text, subject string) (int32, bool, error) {
	refused := invalid("INVALID_PAGE_TOKEN", "The page token is invalid.")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return 0, false, refused
	}
	parts := strings.Split(string(raw), "/")
	if len(parts) != 3 || parts[0] != subject {
		return 0, false, refused
	}
	next, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil {
		return 0, false, refused
	}
	return int32(next), parts[2] == "true", nil
}
