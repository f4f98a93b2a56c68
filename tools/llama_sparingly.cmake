# Read by llama.cpp's build (CMAKE_PROJECT_llama.cpp_INCLUDE) where we build its programs: spends no time of the compiler
# on what no measured token waits for. ggml, libllama and sampling keep -O3; arguments, templates, HTTP, images and the
# server's own code are compiled without optimization, many sources at once, since their headers cost most. So the speed of
# this llama-server says nothing.
function(compile_sparingly)
    set(common "${PROJECT_SOURCE_DIR}/common")
    set(mtmd "${PROJECT_SOURCE_DIR}/tools/mtmd")
    set(apart "${common}/json.cpp" "${common}/jinja/value.cpp") # what they name clashes with the others
    set(quick "${common}/common.cpp" "${common}/sampling.cpp")
    if(TARGET llama-common)
        set_source_files_properties(${apart} TARGET_DIRECTORY llama-common PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
        set_source_files_properties(${quick} TARGET_DIRECTORY llama-common PROPERTIES COMPILE_OPTIONS -O3)
    endif()
    if(TARGET mtmd)
        # These refuse to be compiled with the internal headers of the others.
        set_source_files_properties("${mtmd}/mtmd-helper.cpp" "${mtmd}/mtmd-helper-gen.cpp" TARGET_DIRECTORY mtmd
            PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endif()
    foreach(target llama-common cpp-httplib mtmd server-context)
        if(TARGET ${target})
            target_compile_options(${target} PRIVATE -O0)
            set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
        endif()
    endforeach()
    if(TARGET llama-server-impl)
        target_compile_options(llama-server-impl PRIVATE -O0)
    endif()
endfunction()
cmake_language(DEFER CALL compile_sparingly)
