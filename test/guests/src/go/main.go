// SPDX-License-Identifier: Apache-2.0

// A WASI guest that does as its arguments say, one after the other. It is built for
// this machine, too, for what must be the same for both.
package main

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	for _, do := range os.Args[1:] {
		verb, with, _ := strings.Cut(do, "=")
		if err := run(verb, with); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", do, err)
			os.Exit(1)
		}
	}
	if len(os.Args) < 2 {
		fmt.Println("hello from WebAssembly")
	}
}

var eaten []byte

// poke writes to the memory of the process that runs this guest: one byte of
// its stack, the same that was there.
func poke() error {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, "[stack]") {
			continue
		}
		_, end, _ := strings.Cut(line, "-")
		end, _, _ = strings.Cut(end, " ")
		at, err := strconv.ParseInt(end, 16, 64)
		if err != nil {
			return err
		}
		mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b := make([]byte, 1)
		if _, err := mem.ReadAt(b, at-64); err != nil {
			return err
		}
		if _, err := mem.WriteAt(b, at-64); err != nil {
			return err
		}
		return mem.Close()
	}
	return fmt.Errorf("no stack in\n%s", maps)
}

// reason is what the kernel said: systems differ in capitals.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return strings.ToLower(errno.Error())
	}
	return err.Error()
}

// file does an operation: its name and one or two paths.
func file(args []string) (string, error) {
	path, last := args[1], args[len(args)-1]
	show := func(info os.FileInfo, err error) (string, error) {
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() {
			return info.Mode().Type().String(), nil
		}
		return fmt.Sprint(info.Size()), nil
	}
	write := func(flags int) error {
		f, err := os.OpenFile(path, flags, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString("text\n")
		return err
	}
	const done = "done"
	switch args[0] {
	case "read":
		text, err := os.ReadFile(path)
		return strconv.Quote(string(text)), err
	case "list":
		entries, err := os.ReadDir(path)
		return fmt.Sprint(entries), err
	case "write":
		return done, write(os.O_WRONLY | os.O_CREATE | os.O_TRUNC)
	case "append":
		return done, write(os.O_WRONLY | os.O_APPEND)
	case "create":
		return done, write(os.O_WRONLY | os.O_CREATE | os.O_EXCL)
	case "stat":
		return show(os.Stat(path))
	case "lstat":
		return show(os.Lstat(path))
	case "readlink":
		return os.Readlink(path)
	case "mkdir":
		return done, os.Mkdir(path, 0o755)
	case "rmdir":
		return done, syscall.Rmdir(path)
	case "unlink":
		return done, syscall.Unlink(path)
	case "rename":
		return done, os.Rename(path, last)
	case "link":
		return done, os.Link(path, last)
	case "symlink":
		return done, os.Symlink(path, last)
	case "truncate":
		return done, os.Truncate(path, 2)
	case "times":
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(2, 0)); err != nil {
			return "", err
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(info.ModTime().Unix()), nil
	}
	return "", fmt.Errorf("unknown")
}

func run(verb, with string) error {
	switch verb {
	case "hello":
		fmt.Println("hello from WebAssembly")
	case "echo":
		fmt.Println(with)
	case "args":
		fmt.Printf("%q\n", os.Args)
	case "env":
		for _, kv := range os.Environ() {
			fmt.Println(kv)
		}
	case "cwd":
		dir, err := os.Getwd()
		fmt.Println(dir)
		return err
	case "ls":
		entries, err := os.ReadDir(with)
		for _, e := range entries {
			fmt.Println(e.Name())
		}
		return err
	case "read":
		data, err := os.ReadFile(with)
		os.Stdout.Write(data)
		return err
	case "write":
		return os.WriteFile(with, []byte("written\n"), 0o644)
	case "try-read", "try-write", "try-create": // to open a file, and to say how it went
		flags := map[string]int{"try-read": os.O_RDONLY, "try-write": os.O_RDWR, "try-create": os.O_RDWR | os.O_CREATE | os.O_EXCL}[verb]
		f, err := os.OpenFile(with, flags, 0o644)
		if err != nil {
			fmt.Println(verb, err)
			return nil
		}
		fmt.Println(verb, with, "works")
		return f.Close()
	case "file": // an operation on files, and how it went
		what, err := file(strings.Split(with, ","))
		if err != nil {
			what = reason(err)
		}
		fmt.Printf("%s: %s\n", with, what)
	case "try-poke":
		if err := poke(); err != nil {
			fmt.Println(verb, err)
		} else {
			fmt.Println(verb, "works")
		}
	case "sum": // of all arguments and variables, which ends the guest
		fmt.Printf("%d %x\n", len(os.Args), md5.Sum([]byte(strings.Join(os.Args, "\x00"))))
		fmt.Printf("%d %x\n", len(os.Environ()), md5.Sum([]byte(strings.Join(os.Environ(), "\x00"))))
		os.Exit(0)
	case "stdin":
		n, err := io.Copy(os.Stdout, os.Stdin)
		fmt.Printf("stdin ended after %d bytes\n", n)
		return err
	case "stderr":
		fmt.Fprintln(os.Stderr, with)
	case "sleep":
		d, err := time.ParseDuration(with)
		time.Sleep(d)
		return err
	case "tick": // until it is ended
		for i := 0; ; i++ {
			fmt.Println("tick", i)
			time.Sleep(100 * time.Millisecond)
		}
	case "fill": // a log with that many KiB
		n, err := strconv.Atoi(with)
		for range n {
			fmt.Println(strings.Repeat("x", 1023))
		}
		return err
	case "eat": // that many MiB, and keep them
		n, err := strconv.Atoi(with)
		eaten = make([]byte, n<<20)
		for i := range eaten {
			eaten[i] = 1
		}
		fmt.Println("ate", n)
		return err
	case "spin":
		for { //nolint:staticcheck // that is what it is for
		}
	case "panic":
		panic(with)
	case "exit":
		code, err := strconv.Atoi(with)
		if err != nil {
			return err
		}
		os.Exit(code)
	default:
		return fmt.Errorf("unknown")
	}
	return nil
}
