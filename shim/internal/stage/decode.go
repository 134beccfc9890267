// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

var errMalformed = errors.New("malformed context")

// Decode is Encode's inverse. It treats its input as hostile.
func Decode(b []byte) (*Context, error) {
	if len(b) < header || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: no magic", errMalformed)
	}
	if v := binary.LittleEndian.Uint32(b[len(magic):]); v != version {
		return nil, fmt.Errorf("%w: version %d, want %d", errMalformed, v, version)
	}
	if n := binary.LittleEndian.Uint32(b[len(magic)+4:]); uint64(n) != uint64(len(b)) {
		return nil, fmt.Errorf("%w: length %d of %d", errMalformed, n, len(b))
	}
	c := &Context{}
	for b = b[header:]; len(b) > 0; {
		if len(b) < 8 {
			return nil, fmt.Errorf("%w: cut record", errMalformed)
		}
		tag, n := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		size := (8 + uint64(n) + 1 + 3) &^ 3
		if size > uint64(len(b)) || b[8+n] != 0 {
			return nil, fmt.Errorf("%w: record of tag %d overruns", errMalformed, tag)
		}
		if err := c.set(tag, b[8:8+n]); err != nil {
			return nil, err
		}
		b = b[size:]
	}
	return c, c.checkFile()
}

// checkFile refuses a layer without a descriptor that is not the file at Path.
func (c *Context) checkFile() error {
	isFile := slices.ContainsFunc(c.Layers, func(l Layer) bool { return l.FD == 0 })
	if isFile && (len(c.Layers) != 1 || c.Path == "") {
		return fmt.Errorf("%w: one of %d layers without descriptor, path %q", errMalformed, len(c.Layers), c.Path)
	}
	return nil
}

func (c *Context) set(tag uint32, v []byte) error {
	switch tag {
	case tagKind:
		if len(v) != 4 {
			return fmt.Errorf("%w: kind of %d bytes", errMalformed, len(v))
		}
		c.Kind = binary.LittleEndian.Uint32(v)
		return nil
	case tagFlags:
		if len(v) != 4 || binary.LittleEndian.Uint32(v)&^flags != 0 {
			return fmt.Errorf("%w: flags %x", errMalformed, v)
		}
		set := binary.LittleEndian.Uint32(v)
		c.MustHide, c.NoPreopens = set&flagMustHide != 0, set&flagNoPreopens != 0
		return nil
	case tagMemory, tagCPU:
		if len(v) != 8 {
			return fmt.Errorf("%w: limit of %d bytes", errMalformed, len(v))
		}
		if n := binary.LittleEndian.Uint64(v); tag == tagMemory {
			c.Memory = n
		} else {
			c.CPU = n
		}
		return nil
	case tagRlimit:
		if len(v) != 20 {
			return fmt.Errorf("%w: rlimit of %d bytes", errMalformed, len(v))
		}
		c.Rlimits = append(c.Rlimits, Rlimit{
			Resource: binary.LittleEndian.Uint32(v), Soft: binary.LittleEndian.Uint64(v[4:]), Hard: binary.LittleEndian.Uint64(v[12:]),
		})
		return nil
	case tagLayer:
		return c.setLayer(v)
	case tagPreopen:
		host, guest, ok := bytes.Cut(v, []byte{0})
		if !ok || bytes.IndexByte(guest, 0) >= 0 {
			return fmt.Errorf("%w: preopen without two names", errMalformed)
		}
		c.Preopens = append(c.Preopens, Preopen{Host: string(host), Guest: string(guest)})
		return nil
	}
	if bytes.IndexByte(v, 0) >= 0 {
		return fmt.Errorf("%w: NUL in tag %d", errMalformed, tag)
	}
	s := string(v)
	switch tag {
	case tagID:
		c.ID = s
	case tagPod:
		c.Pod = s
	case tagNamespace:
		c.Namespace = s
	case tagExecID:
		c.ExecID = s
	case tagArg:
		c.Args = append(c.Args, s)
	case tagEnv:
		c.Env = append(c.Env, s)
	case tagEntryPath:
		c.Path = s
	case tagEntryFunc:
		c.Func = s
	case tagEntryName:
		c.Name = s
	case tagCwd:
		c.Cwd = s
	case tagOption:
		c.Options = append(c.Options, s)
	case tagLogLevel:
		c.LogLevel = s
	case tagHidden:
		c.Hidden = append(c.Hidden, s)
	default:
		return fmt.Errorf("%w: unknown tag %d", errMalformed, tag)
	}
	return nil
}

func (c *Context) setLayer(v []byte) error {
	const fixed = 8
	if len(v) < fixed {
		return fmt.Errorf("%w: layer of %d bytes", errMalformed, len(v))
	}
	mediaType, digest, ok := bytes.Cut(v[fixed:], []byte{0})
	if !ok || bytes.IndexByte(digest, 0) >= 0 {
		return fmt.Errorf("%w: layer without type and digest", errMalformed)
	}
	l := Layer{
		FD: binary.LittleEndian.Uint32(v), Artifact: binary.LittleEndian.Uint32(v[4:]),
		MediaType: string(mediaType), Digest: string(digest),
	}
	if l.FD != 0 && !validFD(l.FD) || l.Artifact != 0 && !validFD(l.Artifact) {
		return fmt.Errorf("%w: layer on descriptors %d, %d", errMalformed, l.FD, l.Artifact)
	}
	c.Layers = append(c.Layers, l)
	return nil
}

func validFD(fd uint32) bool { return fd >= FDLayers && fd < FDLayers+2*MaxLayers }
