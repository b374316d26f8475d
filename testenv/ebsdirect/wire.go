package ebsdirect

import (
	"encoding/json"
	"net/http"
)

// Error is an error as the EBS direct APIs answer it.
type Error struct {
	Status  int
	Code    string
	Message string
	Reason  string
}

// Error is the text.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

func invalid(reason, message string) *Error {
	return &Error{http.StatusBadRequest, "ValidationException", message, reason}
}

func notFound(id string) *Error {
	return &Error{http.StatusNotFound, "ResourceNotFoundException", "The snapshot '" + id + "' does not exist.", "SNAPSHOT_NOT_FOUND"}
}

// Write answers with the error.
func (e *Error) Write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", e.Code)
	w.WriteHeader(e.Status)
	body := map[string]string{"Message": e.Message}
	if e.Reason != "" {
		body["Reason"] = e.Reason
	}
	_ = json.NewEncoder(w).Encode(body) // a client that is gone
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone
}

type startRequest struct {
	VolumeSize       int64
	ClientToken      string
	Description      string
	Encrypted        *bool
	KmsKeyArn        string
	ParentSnapshotID string `json:"ParentSnapshotId"`
	Tags             []Tag
	Timeout          int
}

// Tag is a tag of a snapshot.
type Tag struct{ Key, Value string }

// Start asks for a new snapshot.
type Start struct {
	GiB         int64
	Description string
	Encrypted   bool
	KMSKey      string
	Tags        []Tag
}

type startResponse struct {
	SnapshotID  string `json:"SnapshotId"`
	OwnerID     string `json:"OwnerId,omitempty"`
	Status      State
	StartTime   float64
	VolumeSize  int64
	BlockSize   int
	Tags        []Tag  `json:",omitempty"`
	Description string `json:",omitempty"`
	KmsKeyArn   string `json:",omitempty"`
}

type listedBlock struct {
	BlockIndex int32
	BlockToken string
}

type changedBlock struct {
	BlockIndex       int32
	FirstBlockToken  string `json:",omitempty"`
	SecondBlockToken string `json:",omitempty"`
}

type listResponse struct {
	Blocks        []listedBlock  `json:",omitempty"`
	ChangedBlocks []changedBlock `json:",omitempty"`
	BlockSize     int
	VolumeSize    int64
	ExpiryTime    float64
	NextToken     string `json:",omitempty"`
}
