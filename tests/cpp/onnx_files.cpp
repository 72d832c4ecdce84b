// The files that each ONNX model names, whose path comes as a line of stdin: a line each, or the reason why it is refused.
#include "onnx_files.h"

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "error.h"

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    std::ifstream file(path, std::ios::binary);
    const std::string model{std::istreambuf_iterator<char>(file), {}};
    try {
      std::cout << "names";
      for (const std::string &name : dashdeploy::detail::external_files(model, "m")) std::cout << "\t" << name;
    } catch (const dashdeploy::detail::Failure &) {
      std::cout << "\trefused";
    }
    std::cout << "\n";
  }
}
