# SPDX-License-Identifier: Apache-2.0

# stasis_unit_test(NAME SOURCE... LIBS LIB...): a CMocka program, run by ctest. Label
# "keys": ./check runs it again in a build with short keys.
add_custom_target(unit_tests)
function(stasis_unit_test name)
    cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
    add_executable(test_${name} ${ARG_UNPARSED_ARGUMENTS})
    target_link_libraries(test_${name} PRIVATE ${ARG_LIBS} stasis_flags PkgConfig::CMOCKA)
    add_test(NAME unit.${name} COMMAND test_${name})
    set_tests_properties(unit.${name} PROPERTIES TIMEOUT 900 LABELS "unit;keys")
    add_dependencies(unit_tests test_${name})
endfunction()
