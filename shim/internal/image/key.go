// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Key names everything beside the code that an artifact depends on: this binary,
// what the engine says of itself, the processor's features and the options that
// affect compilation.
func (e Engine) Key(options []string) (string, error) {
	m, err := machine()
	if err != nil {
		return "", err
	}
	return sum(append([]string{m.build, m.features, e.Name, e.CacheKey}, options...)...), nil
}

// artifactID names what is compiled of one of a guest's layers: an engine may
// look at all of them.
func artifactID(key string, layers []WorkLayer, index int) string {
	parts := []string{key, strconv.Itoa(index)}
	for _, l := range layers {
		parts = append(parts, l.MediaType, string(l.Digest))
	}
	return sum(parts...)
}

// sum is a name for a list of strings.
func sum(parts ...string) string {
	h := sha256.New()
	for _, s := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

type machineKey struct{ build, features string }

// machine reads what stays the same as long as this process lives.
var machine = sync.OnceValues(func() (m machineKey, err error) {
	if m.build, err = buildID("/proc/self/exe"); err != nil {
		return m, err
	}
	m.features, err = processorFeatures()
	return m, err
})

// noteBuildID is the type of the note in which linkers leave a binary's id.
const noteBuildID = 3

var errNoBuildID = errors.New("this binary has no build id, so that nobody could tell its artifacts from another one's: link it with -Wl,--build-id")

func buildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read own binary: %w", err)
	}
	defer f.Close()
	section := f.Section(".note.gnu.build-id")
	if section == nil {
		return "", errNoBuildID
	}
	note, err := section.Data()
	if err != nil {
		return "", fmt.Errorf("read own build id: %w", err)
	}
	// Sizes of name and value, the type, "GNU\0", the value.
	const header = 16
	if len(note) <= header || f.ByteOrder.Uint32(note[8:]) != noteBuildID {
		return "", errNoBuildID
	}
	return hex.EncodeToString(note[header:]), nil
}

// processorFeatures is the kernel's list of them.
func processorFeatures() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	// The first processor's part: the kernel makes the text while it is read.
	head := make([]byte, 8<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	for line := range bytes.Lines(head[:n]) {
		name, value, _ := strings.Cut(string(line), ":")
		switch strings.TrimSpace(name) {
		case "flags", "Features", "isa":
			flags := strings.Fields(value)
			slices.Sort(flags)
			return strings.Join(flags, " "), nil
		}
	}
	return "", errors.New("/proc/cpuinfo does not say what the processor can do")
}
