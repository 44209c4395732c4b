// A driver that shows N devices without having any, and a compiler that compiles nothing, for tests. VERSION: ten times CUDA's.
#include <stdio.h>
int cuInit(unsigned flags) { return INIT + (int)flags; }
int cuDeviceGetCount(int *n) { *n = N; return 0; }
int cuDeviceGetName(char *name, int n, int device) { return snprintf(name, n, "Device %d", device) < 0; }
int cuDriverGetVersion(int *version) { *version = VERSION / 10 * 1000 + VERSION % 10 * 10; return 0; }
int nvrtcVersion(int *major, int *minor) { *major = VERSION / 10; *minor = VERSION % 10; return 0; }
