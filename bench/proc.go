package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what processes have used so far.
type usage struct {
	cpu    time.Duration // of all threads that live
	writes uint64        // write system calls: write, writev, sendfile
}

func (u usage) minus(v usage) usage { return usage{u.cpu - v.cpu, u.writes - v.writes} }

// usageOf adds up what the processes have used since they were started.
func usageOf(pids []int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		cpu, err := cpuOf(pid)
		if err != nil {
			return usage{}, err
		}
		writes, err := procField(pid, "io", "syscw:")
		if err != nil {
			return usage{}, err
		}
		sum.cpu += cpu
		sum.writes += writes
	}
	return sum, nil
}

// cpuOf adds up the time that the threads of a process were running, from the
// scheduler's own account in ns: the ticks of /proc/<pid>/stat are too coarse
// for a window of seconds.
func cpuOf(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("reading the CPU time of process %d: no such process", pid)
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // in /proc
		if err != nil {
			continue // a thread that has just ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", file, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// residentOf is the memory of processes in bytes: what they have for
// themselves, and what they share among each other once.
func residentOf(pids []int) (uint64, error) {
	var own, shared uint64
	for _, pid := range pids {
		for _, field := range []string{"RssAnon:", "RssFile:", "RssShmem:"} {
			kib, err := procField(pid, "status", field)
			if err != nil {
				return 0, err
			}
			if field == "RssShmem:" {
				shared = max(shared, kib<<10)
			} else {
				own += kib << 10
			}
		}
	}
	return own + shared, nil
}

// procField reads the number behind a name in a file of /proc/<pid>.
func procField(pid int, file, name string) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	text, err := os.ReadFile(path) //nolint:gosec // in /proc
	if err != nil {
		return 0, fmt.Errorf("reading %s of process %d: %w", name, pid, err)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			value := bytes.Fields(rest)
			if len(value) == 0 {
				break
			}
			return strconv.ParseUint(string(value[0]), 10, 64)
		}
	}
	return 0, fmt.Errorf("reading %s: there is no %s", path, name)
}

// childrenOf returns a process's children, and theirs.
func childrenOf(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []int
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // in /proc
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(append(all, child), childrenOf(child)...)
			}
		}
	}
	return all
}
