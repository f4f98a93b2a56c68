// What of Android's C library is not glibc's under the same name: tests/android/standin.py tells how both become libc.so.
// Android's names have `android_` before them here. Layouts and numbers are those of bionic's headers:
// https://github.com/aosp-mirror/platform_bionic/tree/731631f300090436d7f5df80d50b6275c8c60a93/libc/include
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

// stdio.h: programs built for Android before 6 name the standard streams by their place in this array.
struct android_file {
    _Alignas(8) char hidden[152];
};
struct android_file android___sF[3];
FILE *android_stdout, *android_stderr;

__attribute__((constructor)) static void name_streams(void) {
    android_stdout = (FILE *)&android___sF[1];
    android_stderr = (FILE *)&android___sF[2];
}

static FILE *own(void *stream) {
    FILE *const standard[] = {stdin, stdout, stderr};
    for (int index = 0; index < 3; index++) {
        if (stream == &android___sF[index]) return standard[index];
    }
    return stream;
}

int android_fclose(FILE *stream) { return fclose(own(stream)); }
int android_feof(FILE *stream) { return feof(own(stream)); }
int android_ferror(FILE *stream) { return ferror(own(stream)); }
int android_fflush(FILE *stream) { return fflush(own(stream)); }
char *android_fgets(char *text, int size, FILE *stream) { return fgets(text, size, own(stream)); }
int android_fileno(FILE *stream) { return fileno(own(stream)); }
int android_vfprintf(FILE *stream, const char *format, va_list values) { return vfprintf(own(stream), format, values); }
int android_fputc(int byte, FILE *stream) { return fputc(byte, own(stream)); }
int android_fputs(const char *text, FILE *stream) { return fputs(text, own(stream)); }
wint_t android_fputwc(wchar_t character, FILE *stream) { return fputwc(character, own(stream)); }
size_t android_fread(void *data, size_t size, size_t count, FILE *stream) { return fread(data, size, count, own(stream)); }
size_t android_fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    return fwrite(data, size, count, own(stream));
}
int android_fseek(FILE *stream, long offset, int from) { return fseek(own(stream), offset, from); }
int android_fseeko(FILE *stream, off_t offset, int from) { return fseeko(own(stream), offset, from); }
off_t android_ftello(FILE *stream) { return ftello(own(stream)); }
int android_getc(FILE *stream) { return getc(own(stream)); }
wint_t android_getwc(FILE *stream) { return getwc(own(stream)); }
ssize_t android_getline(char **text, size_t *size, FILE *stream) { return getline(text, size, own(stream)); }
int android_ungetc(int byte, FILE *stream) { return ungetc(byte, own(stream)); }
wint_t android_ungetwc(wint_t character, FILE *stream) { return ungetwc(character, own(stream)); }

int android_fprintf(FILE *stream, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = vfprintf(own(stream), format, values);
    va_end(values);
    return written;
}

// pthread_types.h: a mutex is 40 bytes. So are glibc's in use, but on ARM its initialiser clears 48.
int android_pthread_mutex_init(void *mutex, const pthread_mutexattr_t *attributes) {
    pthread_mutex_t made;
    int status = pthread_mutex_init(&made, attributes);
    memcpy(mutex, &made, 40);
    return status;
}

// bits/sysconf.h has other numbers.
long android_sysconf(int name) {
    switch (name) {
        case 0x27:
        case 0x28: return sysconf(_SC_PAGESIZE);
        case 0x60: return sysconf(_SC_NPROCESSORS_CONF);
        case 0x61: return sysconf(_SC_NPROCESSORS_ONLN);
        case 0x62: return sysconf(_SC_PHYS_PAGES);
        case 0x63: return sysconf(_SC_AVPHYS_PAGES);
    }
    fprintf(stderr, "stand-in for bionic: sysconf(%#x) is not translated\n", name);
    abort();
}

// A library of Android finds symbols in itself and what it needs, whatever else the program has loaded.
void *android_dlopen(const char *name, int flags) { return dlopen(name, name == NULL ? flags : flags | RTLD_DEEPBIND); }

int android___system_property_get(const char *name, char *value) {
    (void)name;
    value[0] = 0;
    return 0;
}

void android_android_set_abort_message(const char *message) { fprintf(stderr, "%s\n", message); }

void android___assert2(const char *file, int line, const char *function, const char *condition) {
    fprintf(stderr, "%s:%d: %s: assertion \"%s\" failed\n", file, line, function, condition);
    abort();
}

// What goes on with an exception after a function's clean-up. The other half of the unwinder is libc++_shared's own, which
// shares no structures with GCC's: the exception is thrown anew, from the same place.
__attribute__((weak)) void *__cxa_begin_catch(void *exception);
__attribute__((weak, noreturn)) void __cxa_rethrow(void);

__attribute__((noreturn)) void android__Unwind_Resume(void *exception) {
    __cxa_begin_catch(exception);
    __cxa_rethrow();
}

static void check(int holds, const char *function) {
    if (holds) return;
    fprintf(stderr, "stand-in for bionic: %s reads beyond its buffer\n", function);
    abort();
}

size_t android___strlen_chk(const char *text, size_t size) {
    check(strnlen(text, size) < size, "strlen");
    return strlen(text);
}

char *android___strchr_chk(const char *text, int byte, size_t size) {
    check(strnlen(text, size) < size || memchr(text, byte, size) != NULL, "strchr");
    return strchr(text, byte);
}

void android_refused(const char *name) {
    fprintf(stderr, "stand-in for bionic: %s is not there\n", name);
    abort();
}
