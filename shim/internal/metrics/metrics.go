// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what only a shim knows, for all processes of an engine in a
// namespace of a containerd: in one small file of numbers, which they have in common.
// Whoever counts adds to it in memory, and so neither waits for others nor can leave it
// half written.
package metrics

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Counter is a number's place in the file. A place keeps its meaning: shims of several
// versions count in one file.
type Counter int

// The counters.
const (
	CacheHit Counter = iota
	CacheMiss
	CacheKnownToFail
	CompiledArtifact
	CompiledNothing
	CompileTooLong
	CompileTooLarge
	CompileStarved
	CompileNoTurn
	CompileKilled
	CompileFailed
	CompileNotKept
	CompileTime // nanoseconds
	ArtifactRefused
	GuestCrashed
	GuestEngineFailed
	GuestNotLoaded
	GuestTrapped
	CreateRefused                      // the first of one for each gRPC code
	last          = CreateRefused + 16 // Unauthenticated
)

const fileSize = 4096

// metric is what Prometheus sees: a name, and a number for each value of a label.
type metric struct {
	name, help, label string
	values            []string // of the label, one without a label
	first             Counter  // of one for each value
}

var all = []metric{
	{"cache_lookups_total", "Starts of guests that were to have compiled code: hit, it was there; miss, it was looked for or made; known_to_fail, it had failed before.", "result", []string{"hit", "miss", "known_to_fail"}, CacheHit},
	{
		"compilations_total", "What became of compilations; starved: others had the processors; no_turn: as many as may run at once were busy; not_kept: it could not be stored.",
		"result",
		[]string{"compiled", "nothing", "too_long", "too_large", "starved", "no_turn", "killed", "failed", "not_kept"},
		CompiledArtifact,
	},
	{"compile_seconds_total", "Time in compilers, by the clock.", "", []string{""}, CompileTime},
	{"artifacts_refused_total", "Compiled code that the engine did not load, and that was thrown away.", "", []string{""}, ArtifactRefused},
	{"guests_failed_total", "Guests that have failed, by the reason; exit status 128+n, 125, 126, 134.", "reason", []string{"crash", "engine", "not_loaded", "trap"}, GuestCrashed},
	{"creates_refused_total", "Containers that were not created, by the code of the answer.", "code", codes, CreateRefused},
}

// codes are gRPC's, by their numbers.
var codes = []string{
	"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied", "ResourceExhausted",
	"FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated",
}

// Refused is the counter of creates that were answered with a gRPC code.
func Refused(code uint32) Counter { return min(CreateRefused+Counter(code), last) }

// Failed is the counter of guests that have failed with an exit status.
func Failed(status int) Counter {
	switch status {
	case 125:
		return GuestEngineFailed
	case 126:
		return GuestNotLoaded
	case 134:
		return GuestTrapped
	}
	return GuestCrashed
}

// prefix begins the names of the files, which end with the engine's.
const prefix = "metrics-"

// File is the numbers of one engine in one namespace.
type File struct{ path string }

// Of is an engine's file in the directory of a namespace.
func Of(dir, engine string) File { return File{filepath.Join(dir, prefix+engine)} }

// Add adds to a counter. Where there is no room for the file nothing is counted: that is no
// reason for anything else to fail.
func (f File) Add(c Counter, n uint64) {
	if os.MkdirAll(filepath.Dir(f.path), 0o700) != nil {
		return
	}
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	fd := int(file.Fd())
	// All of its room: a page that there is none for would be a signal at the first write.
	if unix.Fallocate(fd, 0, 0, fileSize) != nil {
		return
	}
	page, err := unix.Mmap(fd, 0, fileSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return
	}
	atomic.AddUint64((*uint64)(unsafe.Pointer(&page[8*c])), n)
	_ = unix.Munmap(page)
}

// Count adds one.
func (f File) Count(c Counter) { f.Add(c, 1) }

// Set is a file's numbers.
type Set struct {
	Namespace, Engine string
	numbers           [fileSize / 8]uint64
}

// Read reads the files in a namespace's directory.
func Read(dir, namespace string) (sets []Set, _ error) {
	files, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s := Set{Namespace: namespace, Engine: strings.TrimPrefix(filepath.Base(file), prefix)}
		for i := 0; i < len(s.numbers) && 8*i+8 <= len(text); i++ {
			s.numbers[i] = binary.NativeEndian.Uint64(text[8*i:])
		}
		sets = append(sets, s)
	}
	return sets, nil
}

// Print writes numbers in the text format of Prometheus.
func Print(out io.Writer, sets []Set) error {
	var text strings.Builder
	for _, m := range all {
		head(&text, m.name, "counter", m.help)
		for _, s := range sets {
			for i, value := range m.values {
				c := m.first + Counter(i)
				number := s.numbers[c]
				if c >= CreateRefused && number == 0 {
					continue // most codes never occur
				}
				labels := fmt.Sprintf("namespace=%q,engine=%q", s.Namespace, s.Engine)
				if m.label != "" {
					labels += fmt.Sprintf(",%s=%q", m.label, value)
				}
				if c == CompileTime {
					fmt.Fprintf(&text, "%s%s{%s} %g\n", namePrefix, m.name, labels, time.Duration(number).Seconds())
				} else {
					fmt.Fprintf(&text, "%s%s{%s} %d\n", namePrefix, m.name, labels, number)
				}
			}
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// Kept is what one namespace's content store has of an engine's artifacts.
type Kept struct {
	Namespace, Engine string
	Artifacts         int
	Bytes             int64
}

// PrintKept writes what is kept in the same format.
func PrintKept(out io.Writer, list []Kept) error {
	var text strings.Builder
	for _, gauge := range []struct {
		name, help string
		value      func(Kept) int64
	}{
		{"cache_artifacts", "Compiled artifacts in containerd's content store.", func(k Kept) int64 { return int64(k.Artifacts) }},
		{"cache_bytes", "Their size.", func(k Kept) int64 { return k.Bytes }},
	} {
		head(&text, gauge.name, "gauge", gauge.help)
		for _, k := range list {
			fmt.Fprintf(&text, "%s%s{namespace=%q,engine=%q} %d\n", namePrefix, gauge.name, k.Namespace, k.Engine, gauge.value(k))
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

const namePrefix = "libwasmshim_"

func head(text *strings.Builder, name, kind, help string) {
	fmt.Fprintf(text, "# HELP %[1]s%[2]s %[4]s\n# TYPE %[1]s%[2]s %[3]s\n", namePrefix, name, kind, help)
}
